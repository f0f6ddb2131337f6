"""Filters of the playbooks: a host's name in topics, and the fleet as a table."""

from __future__ import annotations

from typing import Any


def fleet_device(variables: Any) -> str:
    """``site/device`` of a host, of its variables."""
    return f"{variables['edge_agent_site']}/{variables.get('edge_agent_device', variables['inventory_hostname'])}"


def fleet_table(devices: dict[str, Any], hosts: dict[str, str]) -> list[str]:
    """One line for each box of the inventory (``hosts``: device to host), then those that only the broker knows."""
    rows = [("host", "device", "state", "agent", "model", "fps", "waiting", "cpu", "°C", "last error")]
    for device in [*hosts, *sorted(set(devices) - set(hosts))]:
        heard = devices.get(device, {})
        beat = heard.get("heartbeat") or {}
        model, host = beat.get("model") or {}, beat.get("host") or {}
        cameras = beat.get("cameras", [])
        rows.append(
            (
                hosts.get(device, "(not in the inventory)"),
                device,
                _state(heard, beat),
                beat.get("version") or (heard.get("status") or {}).get("version") or "-",
                f"{model['name']}@{model['version']}" if model else "-",
                " ".join(f"{camera.get('fps', 0):.1f}" for camera in cameras) or "-",
                str(beat.get("outbox", {}).get("depth", "-")),
                f"{host['cpu_pct']:.0f}%" if "cpu_pct" in host else "-",
                str(host.get("temperature_c", "-")),
                str(beat.get("last_error") or "-")[:60],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]


def _state(heard: dict[str, Any], beat: dict[str, Any]) -> str:
    if heard.get("clash"):
        return "TWO BOXES WITH ONE IDENTITY"
    if not heard:
        return "never heard of"
    if not heard.get("online"):
        return "offline"
    if not beat:
        return "SILENT"
    return "SAFE MODE" if beat.get("safe_mode") else str(beat.get("status", "?"))


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """By name."""
        return {"fleet_device": fleet_device, "fleet_table": fleet_table}
