"""Real machines: Debian in systemd-nspawn, each with its own systemd, sshd and network, managed over SSH only."""
