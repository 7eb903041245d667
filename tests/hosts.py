"""Three hosts on one machine: network namespaces, joined by a switch in a fourth.

A host is silenced by its plug: the switch takes its port down, and what is sent to it vanishes, as
with a machine that has lost its power. Packets are lost by a rule of nftables on the host, by
chance, in both directions. Needs root and iproute2, and for lost packets nft.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from .chaos import kill_tree, new_token, until_it_runs
from .conftest import wait_until

PORT = 6379
RAY = Path("/tmp/ray")


def why_not() -> str:
    """Why hosts cannot be made here; "" where they can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces need root and iproute2"
    probe = f"actsearch-{secrets.token_hex(4)}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    _ip("netns", "del", probe)
    return ""


def why_no_loss() -> str:
    """Why no packets can be lost here; "" where they can."""
    if shutil.which("nft") is None:
        return "packets are lost by nft, of the package nftables, which is not installed"
    return ""


def _children(process: subprocess.Popen[Any]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Hosts:
    """`names` are the namespaces; Ray's head is on the first, a node on each other one."""

    def __init__(self, folder: Path, count: int = 3) -> None:
        self.folder = folder
        tag = f"as{secrets.token_hex(3)}"
        self.switch = f"{tag}-switch"
        self.names = [f"{tag}-{i}" for i in range(count)]
        self.nodes: dict[str, subprocess.Popen[Any]] = {}
        # Ray refuses an address that a file of an earlier head still names.
        self.subnet = f"10.{64 + secrets.randbelow(128)}.{secrets.randbelow(256)}"
        self.address = f"{self.ip(0)}:{PORT}"
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(new_token(folder / "token")),
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
        self.holders: list[subprocess.Popen[Any]] = []
        self.inits: list[int] = []
        try:
            self._wire()
            self.inits = [self._boot(host) for host in range(count)]
        except BaseException:
            self.close()
            raise

    def ip(self, host: int) -> str:
        return f"{self.subnet}.{host + 1}"

    def _wire(self) -> None:
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self.switch, "link", "set", "bridge", "up")
        for i, name in enumerate(self.names):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("link", "add", "eth0", "netns", name, "type", "veth",
                "peer", "name", f"port{i}", "netns", self.switch)  # fmt: skip
            _ip("-n", self.switch, "link", "set", f"port{i}", "master", "bridge", "up")
            _ip("-n", name, "addr", "add", f"{self.ip(i)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            # Ray asks the routing table for the address of the machine that it is on.
            _ip("-n", name, "route", "add", "default", "dev", "eth0")

    def _boot(self, host: int) -> int:
        """The process that keeps the host's namespaces: of its network, its mounts and its
        processes. Ray looks for nodes of its machine among processes, and for their sockets in its
        folder, so hosts that shared these would find each other's."""
        own = self.folder / f"host{host}"
        own.mkdir()
        RAY.mkdir(exist_ok=True)
        kept = ["sh", "-c", f'mount --bind "$0" {RAY} && exec sleep infinity', str(own)]
        apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *kept]
        holder = subprocess.Popen(["ip", "netns", "exec", self.names[host], *apart])
        self.holders.append(holder)
        wait_until(lambda: [p.name() for p in _children(holder)] == ["sleep"], "a host")
        return _children(holder)[0].pid

    def start(self, host: int, *command: str, out: str) -> subprocess.Popen[Any]:
        inside = ["nsenter", f"--target={self.inits[host]}", "--net", "--mount", "--pid"]
        with open(self.folder / out, "ab") as file:
            return subprocess.Popen(
                [*inside, f"--wd={Path.cwd()}", "--", *command],
                stdout=file,
                stderr=file,
                env=self.environment,
            )

    def start_ray(self, host: int, cpus: int = 1) -> None:
        """Returns when it runs."""
        ray = str(Path(sys.executable).with_name("ray"))
        place = (
            ["--head", f"--port={PORT}", "--include-dashboard=false"]
            if host == 0
            else [f"--address={self.address}"]
        )
        own = f"--node-ip-address={self.ip(host)}"
        command = [ray, "start", *place, own, f"--num-cpus={cpus}", "--block"]
        out = f"ray{host}.out"
        self.nodes[self.names[host]] = until_it_runs(
            lambda: self.start(host, *command, "--disable-usage-stats", out=out),
            self.folder / out,
        )

    def silence(self, host: int) -> None:
        _ip("-n", self.switch, "link", "set", f"port{host}", "down")

    def reconnect(self, host: int) -> None:
        _ip("-n", self.switch, "link", "set", f"port{host}", "up")

    def restart_ray(self, host: int) -> None:
        """In the place of a node that is gone, or that the cluster has given up."""
        kill_tree(self.nodes[self.names[host]])
        self.start_ray(host)

    def lose(self, host: int, percent: int) -> None:
        """Of all packets between this host and others, from now on; 0 ends it."""
        self._nft(host, "add table inet loss; delete table inet loss")
        if not percent:
            return
        drop = f"numgen random mod 100 < {percent} counter drop"
        chain = "{{ type filter hook {0} priority 0; }}"
        self._nft(
            host,
            "add table inet loss;"
            f"add chain inet loss come {chain.format('input')};"
            f"add chain inet loss go {chain.format('output')};"
            f'add rule inet loss come iifname "eth0" {drop};'
            f'add rule inet loss go oifname "eth0" {drop}',
        )

    def lost(self, host: int) -> int:
        """Packets that were lost since `lose`."""
        found = json.loads(self._nft(host, "list table inet loss", "--json"))
        rules = [item["rule"]["expr"] for item in found["nftables"] if "rule" in item]
        return sum(part["counter"]["packets"] for e in rules for part in e if "counter" in part)

    def _nft(self, host: int, script: str, *options: str) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", self.names[host], "nft", *options, script],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    def close(self) -> None:
        for process in (*self.holders, *self.nodes.values()):  # with a holder its host ends
            kill_tree(process)
        for name in (*self.names, self.switch):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
