"""The guest's disks: its root file system, made once into the user's cache, and the sources, made for each run.

``recipe`` says what is in them. Debian's packages come by mmdebstrap from where this machine's
own come from, Python's from the lock file with its hashes.

Invariant: an image in the cache is whole, and the checkout is not written to.
"""

from __future__ import annotations

import importlib.metadata
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests import golang
from tests.guest import recipe

ROOT_SIZE, SWAP_SIZE = "4G", "256M"
PLATFORMS = ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_28_x86_64", "linux_x86_64")


GET_KERNEL = f"""chroot "$1" sh -euc '
cd /tmp
kernel=$(apt-cache depends {recipe.KERNEL} | sed -n "s/ *Depends: \\(linux-image-\\)/\\1/p")
apt-get -qq download "$kernel"
dpkg-deb --fsys-tarfile "$kernel"_*.deb | tar -x -C / --keep-directory-symlink ./boot ./lib
rm "$kernel"_*.deb'"""
"""For mmdebstrap to execute, with the root as its argument."""


@dataclass(frozen=True, slots=True)
class Image:
    """Files on this machine; ``root`` and ``swap`` are disks that a guest must not change."""

    kernel: Path
    root: Path
    swap: Path


def run(*words: str | Path) -> None:
    """Raises CalledProcessError; what the command says is ours to say, too."""
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)


def open_image(say: Callable[[str], None]) -> Image:
    """The image of the recipe, from the cache or made into it.

    Raises:
        CalledProcessError: something that makes it failed, and has said why.
    """
    cache = golang.cache_folder() / "guest"
    found = cache / recipe.key()
    if not found.exists():
        say(f"making the guest's image below {cache} (once) …")
        fresh = cache / f".{found.name}.{os.getpid()}"
        fresh.mkdir(parents=True)
        try:
            make(fresh)
            fresh.rename(found)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        for other in cache.iterdir():
            if other != found and not other.name.startswith("."):
                shutil.rmtree(other)
    return Image(found / "vmlinuz", found / "root.img", found / "swap.img")


def make(folder: Path) -> None:
    root = folder / "root"
    bootstrap(root)
    kernel = max((root / "boot").glob("vmlinuz-*"))
    unpack_modules(root, kernel.name.removeprefix("vmlinuz-"))
    shutil.move(kernel, folder / "vmlinuz")
    shutil.rmtree(root / "boot")
    install_python(root)
    write_files(root)
    run("chroot", root, "python3", "-m", "compileall", "-q", "-j", "2", "/opt/crisp/lib", "/usr/lib/python3.11")
    make_disk(root, folder / "root.img", "root", ROOT_SIZE)
    shutil.rmtree(root)
    with open(folder / "swap.img", "wb") as swap:
        swap.truncate(int(SWAP_SIZE.removesuffix("M")) << 20)
    run("mkswap", "--quiet", "--label", "swap", folder / "swap.img")


def bootstrap(root: Path) -> None:
    """Debian's packages, and its kernel unpacked: the package's scripts would make an initial ramdisk."""
    own = [path for path in ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list") if is_of_suite(path)]
    run(
        "mmdebstrap",
        *("--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(recipe.PACKAGES)}"),
        *('--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"'),
        *('--aptopt=Acquire::Retries "3"', "--dpkgopt=force-unsafe-io"),
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in recipe.LEFT_OUT),
        *(f"--customize-hook={GET_KERNEL}", recipe.SUITE, str(root), *own[:1]),
    )


def unpack_modules(root: Path, version: str) -> None:
    for folder in recipe.UNPACKED:
        for packed in (root / "usr/lib/modules" / version / "kernel" / folder).rglob("*.ko.xz"):
            packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
            packed.unlink()
    run("chroot", root, "depmod", version)


def is_of_suite(path: str) -> bool:
    """Whether apt's sources in ``path`` have the guest's suite; if none has, mmdebstrap knows where it is."""
    return os.path.exists(path) and f" {recipe.SUITE}" in Path(path).read_text()


def install_python(root: Path) -> None:
    """The wheels of the lock file, as the guest's own Python would install them."""
    version = os.readlink(root / "usr/bin/python3").removeprefix("python")
    run("chroot", root, "python3", "-m", "venv", "--without-pip", recipe.PLACES["environment"])
    packages = root / f"opt/crisp/lib/python{version}/site-packages"
    run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"),
        *("--no-compile", "--require-hashes", "--only-binary=:all:", "--implementation=cp"),
        *(f"--python-version={version}", *(f"--platform={name}" for name in PLATFORMS)),
        *("--target", packages, "-r", recipe.LOCK),
    )
    (packages / "crisp.pth").write_text(f"{recipe.PLACES['sources']}\n")


def write_files(root: Path) -> None:
    units = root / "etc/systemd/system"
    for name, text in recipe.FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
    for name in recipe.EXECUTABLE:
        (root / name).chmod(0o755)
    (root / "src").mkdir()
    shutil.copy(recipe.HERE / "agent.py", root / "opt/agent.py")
    shutil.copy(recipe.UNIT, units / "crisp.service")
    for name in recipe.MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    for name in recipe.ENABLED:
        folder = "/etc/systemd/system" if (units / name).exists() else "/lib/systemd/system"
        (units / "multi-user.target.wants" / name).unlink(missing_ok=True)
        (units / "multi-user.target.wants" / name).symlink_to(f"{folder}/{name}")
    (units / "default.target").unlink(missing_ok=True)
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")


def make_sources(disk: Path, beside: Path | None = None) -> None:
    """A disk with what the guest needs of the checkout, and the folder ``beside`` by its name. Python's compiled
    files come along: the guest can use them where its Python is the same as this one."""
    copy = disk.parent / "sources"
    copy.mkdir()
    for name in recipe.SOURCES:
        if (recipe.ROOT / name).is_dir():
            shutil.copytree(recipe.ROOT / name, copy / name, symlinks=True)
        else:
            shutil.copy2(recipe.ROOT / name, copy / name)
    if beside is not None:
        shutil.copytree(beside, copy / beside.name)
    crisp = importlib.metadata.distribution("crisp-cri")  # its version is read from there
    (metadata,) = (file for file in crisp.files or () if file.name == "METADATA")
    shutil.copytree(Path(str(crisp.locate_file(metadata))).parent, copy / metadata.parent.name)
    run(sys.executable, "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash", copy)
    make_disk(copy, disk, "sources", "256M")
    shutil.rmtree(copy)


def make_disk(folder: Path, disk: Path, label: str, size: str) -> None:
    """An ext4 file system with the content of ``folder``, without a mount."""
    options = ("-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard")
    disk.touch()
    run("mke2fs", "-q", "-F", "-t", "ext4", "-L", label, *options, "-d", folder, disk, size)
