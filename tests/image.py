"""The Dockerfile without a Docker engine: its steps, word for word, each in a root directory of its own stage.

A stage begins with what its base image has: a system, mounted read-only from this one, and a Python of that version.
Nothing else of this machine is there: no checkout, no packages, no home. What a stage writes stays in its directory.
Linux, as root (mounts in a namespace of their own); `missing` says what there is not.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

SYSTEM = ("usr", "bin", "sbin", "lib", "lib64")
CONFIGURED = (  # what the base image has in /etc and can be asked for here; the network's and pip's are the builder's
    "alternatives", "ca-certificates", "default", "group", "hosts", "ld.so.cache", "localtime", "login.defs",
    "nsswitch.conf", "pam.d", "passwd", "pip.conf", "resolv.conf", "security", "shadow", "ssl", "xdg",
)  # fmt: skip
OF_THE_BUILDER = re.compile(r"(PIP_|SSL_|CURL_|REQUESTS_)\w+|\w+_(proxy|PROXY)")  # variables: how pip reaches its index
BUILDERS = ("/opt",)  # folders that pip's configuration may point to


def missing() -> str | None:
    """Why the steps cannot be run here."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "takes Linux, and root"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        return "mounts in a namespace are not permitted"
    return None


@dataclass
class Stage:
    """A root directory, and what its instructions have made of it."""

    root: Path
    base: str
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: tuple[int, int] | None = None
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def path(self, inside: str) -> Path:
        return self.root / os.path.join(self.workdir, inside).lstrip("/")

    def enter(self, command: list[str], *, builder: bool = False) -> list[str]:
        """The command line that runs a command inside; a builder's way to the network comes along to it alone."""
        mounts = [*(f"/{name}" for name in SYSTEM), sys.base_prefix, *(BUILDERS if builder else ())]
        script = [
            f"mkdir -p {target} && mount --rbind {shlex.quote(path)} {target} && mount -o remount,bind,ro {target}"
            for path in dict.fromkeys(os.path.realpath(path) for path in mounts if os.path.isdir(path))
            for target in [shlex.quote(str(self.root) + path)]
        ]
        script += [f"mount --rbind /dev {self.root}/dev", f"mount -t proc proc {self.root}/proc"]
        theirs = {name: value for name, value in os.environ.items() if builder and OF_THE_BUILDER.fullmatch(name)}
        env = theirs | self.env
        identity = [] if self.user is None else [f"--userspec={self.user[0]}:{self.user[1]}"]
        inside = ["env", "-i", *(f"{name}={value}" for name, value in env.items()), "sh", "-c"]
        inside += ['cd "$1" && shift && exec "$@"', "sh", self.workdir, *command]
        script.append(f"exec chroot {' '.join(identity)} {self.root} {shlex.join(inside)}")
        return ["unshare", "--mount", "--propagation=private", "sh", "-ec", "\n".join(script)]

    def run(self, step: str) -> None:
        done = subprocess.run(self.enter(["sh", "-c", step], builder=True), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"RUN {step}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"

    def copy(self, sources: list[Path], target: str) -> None:
        into = self.path(target)
        for source in sources:
            to = into / source.name if target.endswith("/") else into
            if source.is_dir():
                unwanted = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, to, symlinks=True, dirs_exist_ok=True, ignore=unwanted)
            else:
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, to)


def begin(root: Path, base: str, like: Stage | None) -> Stage:
    """A stage from `python:<version>-slim-<system>`; the Python of one that begins `like` it is copied."""
    for name in ("dev", "proc", "tmp", "etc", "root", "var"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for name in SYSTEM:
        if Path("/", name).is_symlink():
            (root / name).symlink_to(os.readlink(f"/{name}"))
    for name in CONFIGURED:
        source = Path("/etc", name)
        if source.is_dir():
            shutil.copytree(source, root / "etc" / name, symlinks=True)
        elif source.exists():
            shutil.copy(source, root / "etc" / name)
    stage = Stage(root, base, {"PATH": "/base/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"})
    # The base image's own Python, into which a build may install: a copy that is this stage's.
    if like is None:
        stage.run(f"{shlex.quote(os.path.join(sys.base_prefix, 'bin', 'python3'))} -m venv /base")
        shutil.copytree(root / "base", root.parent / "base", symlinks=True)
    else:
        shutil.copytree(root.parent / "base", root / "base", symlinks=True)
    return stage


def build(context: Path, folder: Path) -> Stage:
    """Runs the Dockerfile of a folder; the last stage is the image. Fails with what a step said."""
    text = re.sub(r"\\\n\s*", " ", re.sub(r"^\s*#.*\n", "", (context / "Dockerfile").read_text(), flags=re.MULTILINE))
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        words = rest.split()
        if name == "FROM":
            label = words[2] if words[1:2] == ["AS"] else str(len(stages))
            stage = stages[label] = begin(folder / label, words[0], stage)
            continue
        assert stage is not None, "FROM comes first"
        match name:
            case "RUN":
                stage.run(rest)
            case "COPY":
                begins = stages[words.pop(0).partition("=")[2]].root if words[0].startswith("--from=") else context
                stage.copy([begins / source.lstrip("/") for source in words[:-1]], words[-1])
            case "ENV":
                for key, _, value in (word.partition("=") for word in shlex.split(rest)):
                    stage.env[key] = Template(value).substitute(stage.env)
            case "WORKDIR":
                stage.workdir = rest
                stage.path("").mkdir(parents=True, exist_ok=True)
            case "USER":
                user, _, group = rest.partition(":")
                stage.user = (int(user), int(group))
            case "HEALTHCHECK":
                stage.health = json.loads(rest.partition("CMD ")[2])
            case "CMD":
                stage.command = json.loads(rest)
            case "EXPOSE" | "STOPSIGNAL":
                pass
            case _:
                raise AssertionError(f"an instruction that is not known here: {line}")
    assert stage is not None
    return stage
