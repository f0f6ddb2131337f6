"""The configuration, the agent at work, and systemd, which keeps it there."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from functools import partial

from edge_agent import __version__
from edge_agent.chains import check
from edge_agent.config_file import SECRET_FILES, locate
from edge_agent.doctor import unit
from edge_agent.doctor.box import Box
from edge_agent.doctor.finding import Check, Outcome, fail, ok, skip, warn
from edge_agent.errors import ConfigError, ModelError

AREA = "agent"
_MAX_PROBLEMS = 20
_FIX = "correct it there; docs/configure.md says what is allowed"


def checks(box: Box) -> list[Check]:
    """Of this area; each problem of the configuration is one."""
    found = [Check(AREA, "configuration", configuration)]
    for number, problem in enumerate(box.problems[1:_MAX_PROBLEMS], 2):
        found.append(Check(AREA, f"configuration, {number}", partial(_problem, text=problem)))
    named = {"secrets": secrets, "running agent": running, "systemd unit": systemd_unit, "service": service}
    return found + [Check(AREA, name, run) for name, run in named.items()]


def _problem(_: Box, text: str) -> Outcome:
    return fail(text, _FIX)


def configuration(box: Box) -> Outcome:
    """The file, with all that can be found wrong without starting anything."""
    if box.problems:
        return fail(box.problems[0], _FIX)
    if box.config is None or box.config_path is None:
        return warn(
            "no file was given, only the box is looked at", "-c config.yaml, or put it at /etc/edge-agent/config.yaml"
        )
    try:
        facts = check(box.config)
    except ConfigError as error:
        return fail("; ".join(locate(box.config_path, error).problems), _FIX)
    except ModelError:
        facts = []  # the model has checks of its own
    estimates = sum("no ground plane" in fact for fact in facts)
    text = f"{box.config_path}: site {box.config.site}, device {box.config.device}, {len(box.config.cameras)} camera(s)"
    return ok(f"{text}, {estimates} without a ground plane" if estimates else text)


def secrets(box: Box) -> Outcome:
    """Whether others may read the files that hold them, or the configuration where an address holds a password."""
    if box.config is None or box.config_path is None:
        return skip("no configuration")
    files = [getattr(getattr(box.config, section), key) for (section, key), _ in SECRET_FILES]
    tls = [section.tls for section in (box.config.mqtt, box.config.influxdb, box.config.webhook)]
    files += [config.key_file or config.cert_file for config in tls if config is not None]
    files = [file for file in files if file is not None]
    if any(re.search(r"//[^/\s${}]+:[^/\s${}]+@", line) for line in _lines(box)):
        files.append(box.config_path)
    if not files:
        return ok("none in files")
    told = [str(file) for file in files if file.is_file() and file.stat().st_mode & stat.S_IROTH]
    if told:
        return warn(f"every user of this box may read {', '.join(told)}", f"sudo chmod o-rwx {' '.join(told)}")
    return ok(f"{len(files)} file(s), closed to others")


def _lines(box: Box) -> list[str]:
    assert box.config_path is not None
    try:
        return box.config_path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def running(box: Box) -> Outcome:
    """What a running agent says about itself."""
    agent = box.agent
    if agent is None:
        return skip("none in this state folder")
    if agent.status is None:
        off = box.config is None or not box.config.http.enabled or not box.config.http.port
        see = "it is starting, overloaded, or hangs; see its log: journalctl -u edge-agent"
        return warn(
            f"runs, but {agent.why}", "http.enabled: true and a fixed http.port let doctor ask it" if off else see
        )
    version, hours = agent.part("version"), (agent.part("uptime_s") or 0) / 3600
    text = f"version {version}, up {hours:.1f} h"
    if reason := agent.part("safe_mode"):
        return fail(f"{text}, in safe mode: {reason}", "see its log: journalctl -u edge-agent")
    stuck = [w["name"] for w in agent.part("workers") or [] if w.get("state") in {"stuck", "failed"}]
    if stuck:
        return fail(f"{text}, not working: {', '.join(stuck)}", "see its log: journalctl -u edge-agent")
    if version != __version__:
        return warn(f"{text}; installed is {__version__}", "restart it: sudo systemctl restart edge-agent")
    if box.config is not None and agent.part("config_hash") != box.config.digest():
        return warn(
            f"{text}; works with another configuration than the file's", "restart it: sudo systemctl restart edge-agent"
        )
    if error := agent.part("outbox", "reason"):
        return fail(f"{text}, outbox: {error}", "see `storage`")
    return ok(text)


def systemd_unit(box: Box) -> Outcome:
    """Whether the agent is started with the box, by whom, and whether it is there to be started."""
    found = unit.find(box.root)
    if found is None:
        return skip("not installed as a service: it runs when somebody starts it")
    problems = []
    program = found.get("ExecStart").lstrip("@-:+!").split(" ")[0]
    if not program or not (box.root / program.lstrip("/")).exists():
        problems.append(f"ExecStart {program or 'is missing'} does not exist")
    if box.user.uid is None and not found.dynamic_user:
        problems.append(f"user {box.user.name} does not exist")
    if problems:
        return fail(f"{found.path}: {'; '.join(problems)}", "install edge-agent and its unit anew: docs/install.md")
    wanted = any(box.glob(f"etc/systemd/system/*.wants/{unit.NAME}"))
    text = f"{found.path}, user {box.user.name}"
    if not wanted:
        return warn(f"{text}: is not started with the box", "sudo systemctl enable edge-agent")
    if found.get("Restart") not in {"always", "on-failure"}:
        return warn(f"{text}: is not restarted after a failure", "Restart=always in the unit")
    return ok(text)


def service(box: Box) -> Outcome:
    """What systemd says about it."""
    program = shutil.which("systemctl")
    if not box.real or program is None or not os.path.isdir("/run/systemd/system"):  # noqa: PTH112 - sd_booted(3)
        return skip("systemd does not run here")
    if unit.find(box.root) is None:
        return skip("not installed as a service")
    asked = "LoadState,ActiveState,SubState,NRestarts,Result"
    done = subprocess.run(  # noqa: S603
        [program, "show", unit.NAME, f"--property={asked}"], capture_output=True, text=True, timeout=5, check=False
    )
    said = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    return judge_service(said)


def judge_service(said: dict[str, str]) -> Outcome:
    """From the properties of ``systemctl show``."""
    state, restarts = said.get("ActiveState", "unknown"), said.get("NRestarts", "0")
    text = f"{state} ({said.get('SubState', '?')}), restarted {restarts} times"
    log = "its log says why: journalctl -u edge-agent -n 50"
    if state == "failed" or said.get("SubState") == "auto-restart":
        return fail(f"{text}, {said.get('Result', '')}", log)
    if state != "active":
        return warn(text, "sudo systemctl start edge-agent")
    return warn(text, log) if restarts.isdecimal() and int(restarts) > 3 else ok(text)
