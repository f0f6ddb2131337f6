#!/usr/bin/python
"""Listens to the fleet for a while."""

from __future__ import annotations

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_agent.fleet.plugins.module_utils.fleet import FleetError, Watcher

DOCUMENTATION = r"""
module: fleet_watch
short_description: Listen to what the boxes say at the broker
description: Waits until each of I(devices) was heard, at most I(seconds). Run it on the controller.
author: edge-agent developers
options:
  broker: {type: dict, required: true, description: "host, port, ca_file, cert_file, key_file, username, password"}
  devices: {type: list, elements: str, default: [], description: "site/device that are waited for"}
  seconds: {type: float, default: 40, description: "for how long at most; more than one heartbeat"}
"""
EXAMPLES = r"""
- name: Listen
  edge_agent.fleet.fleet_watch: {broker: "{{ fleet_broker }}", devices: [berlin/till-3]}
"""
RETURN = r"""
devices: {type: dict, returned: always, description: "by site/device: online, status, heartbeat, model, clash"}
"""


def main() -> None:
    """One listening."""
    module = AnsibleModule(
        {
            "broker": {"type": "dict", "required": True},
            "devices": {"type": "list", "elements": "str", "default": []},
            "seconds": {"type": "float", "default": 40.0},
        },
        supports_check_mode=True,
    )
    wanted = module.params["devices"]
    try:
        with Watcher(module.params["broker"]) as watcher:
            watcher.wait(
                module.params["seconds"],
                lambda heard: bool(wanted) and all(name in heard and heard[name].heartbeat for name in wanted),
            )
            devices = {
                name: {
                    "online": heard.online,
                    "status": heard.status,
                    "heartbeat": heard.heartbeat,
                    "model": heard.model,
                    "clash": heard.clash is not None or len(set(heard.boots[-3:])) > 2,
                    "age_s": round(time.monotonic() - heard.heartbeat_at, 1) if heard.heartbeat else None,
                }
                for name, heard in sorted(watcher.heard.items())
            }
    except FleetError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, devices=devices)


if __name__ == "__main__":
    main()
