/* A driver that does ACT when it is loaded: abort(), sleep(600), … */
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

void *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
  (void)keys, (void)values, (void)count, (void)report;
  ACT;
  return NULL;
}

void tflite_plugin_destroy_delegate(void *delegate) { (void)delegate; }
