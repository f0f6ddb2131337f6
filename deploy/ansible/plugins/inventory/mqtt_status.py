"""An inventory of what the broker knows: each device with a retained ``status``."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Constructable

DOCUMENTATION = r"""
name: mqtt_status
short_description: The devices that the broker has a retained status of
description:
  - Each becomes a host in C(edge_agents), C(site_NAME), C(online) or C(offline), with C(edge_agent_site), C(edge_agent_device),
    C(edge_agent_status_version) and C(edge_agent_status_since).
  - How it is reached by SSH the broker does not know; say it with I(compose), or in a second inventory with the same names.
extends_documentation_fragment: [constructed]
options:
  plugin: {description: "edge_agent.fleet.mqtt_status", required: true, choices: [edge_agent.fleet.mqtt_status]}
  host: {description: "the broker", required: true}
  port: {description: "its port", type: int, default: 8883}
  ca_file: {description: "CAs to trust, relative to this file; empty, no TLS"}
  cert_file: {description: "our certificate"}
  key_file: {description: "its key"}
  username: {description: "where the broker wants one"}
  password: {description: "of it; keep it in ansible-vault"}
  seconds: {description: "for how long more messages are waited for once none comes any more", type: float, default: 3}
"""
EXAMPLES = r"""
plugin: edge_agent.fleet.mqtt_status
host: mqtt.example.org
ca_file: pki/ca.pem
cert_file: pki/controller.pem
key_file: pki/controller.key
compose:
  ansible_host: edge_agent_device ~ '.boxes.example.org'
"""
Statuses = dict[tuple[str, str], dict[str, Any]]


class InventoryModule(BaseInventoryPlugin, Constructable):
    """What Ansible looks for."""

    NAME = "edge_agent.fleet.mqtt_status"

    def verify_file(self, path: str) -> bool:
        """Whether the file may be ours."""
        return bool(super().verify_file(path)) and path.endswith((".yml", ".yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Ask the broker. Raises AnsibleParserError where it does not answer."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        for group in ("edge_agents", "online", "offline"):
            self.inventory.add_group(group)
        for (site, device), status in sorted(self._ask(Path(path).parent).items()):
            self._add(site, device, status)

    def _add(self, site: str, device: str, status: dict[str, Any]) -> None:
        self.inventory.add_host(device, group="edge_agents")
        group = self.inventory.add_group("site_" + re.sub(r"[^A-Za-z0-9_]", "_", site))
        self.inventory.add_child(group, device)
        self.inventory.add_child("online" if status.get("state") == "online" else "offline", device)
        variables = {
            "edge_agent_site": site,
            "edge_agent_device": device,
            "edge_agent_status_version": str(status.get("version")),
            "edge_agent_status_since": str(status.get("since")),
        }
        for name, value in variables.items():
            self.inventory.set_variable(device, name, value)
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, device, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, device, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, device, strict=strict)

    def _ask(self, folder: Path) -> Statuses:
        try:
            import paho.mqtt.client as paho
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise AnsibleParserError("mqtt_status needs paho-mqtt: pip install -r requirements.txt") from error
        found: Statuses = {}
        last = [0.0]

        def take(_client: Any, _data: Any, message: Any) -> None:
            try:
                status = json.loads(message.payload)
                _, _, site, device, _ = message.topic.split("/")
            except ValueError:
                return
            if isinstance(status, dict) and all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in (site, device)):
                found[site, device] = status
                last[0] = time.monotonic()

        client = paho.Client(CallbackAPIVersion.VERSION2)
        files = [self.get_option(name) for name in ("ca_file", "cert_file", "key_file")]
        try:
            if files[0]:
                client.tls_set(*(str(folder / file) if file else None for file in files))
            if self.get_option("username"):
                client.username_pw_set(self.get_option("username"), self.get_option("password"))
            client.on_message = take
            client.on_connect = lambda *_: client.subscribe("edge/v1/+/+/status", 1)
            client.connect(self.get_option("host"), self.get_option("port"))
        except (OSError, ValueError) as error:
            raise AnsibleParserError(f"{self.get_option('host')}:{self.get_option('port')}: {error}") from error
        client.loop_start()
        quiet = self.get_option("seconds")
        end = time.monotonic() + 10 + quiet
        while time.monotonic() < end and not (last[0] and time.monotonic() - last[0] > quiet):
            time.sleep(0.05)
        client.disconnect()
        client.loop_stop()
        return found
