#!/usr/bin/env python3
"""Ranks that write through two mounts of one folder, by FUSE as some network file systems are mounted: the bytes are those
of a job on the disk, and what one mount has damaged is seen and mended through the other.

usage: mounts.py FOLDER_OF_PROGRAMS LAUNCH...

LAUNCH is mpirun with its options but for the number of ranks. Exit code 77: there is no bindfs, or it cannot mount here.
"""

import pathlib
import subprocess
import sys
import tempfile

import h5py

JOB = ["--parameters", "c1.*", "f2.bias", "--threads", "1", "--progress", "none"]


class Mounts:
    """Two mounts of one folder."""

    def __init__(self, folder: pathlib.Path):
        self.disk = folder / "disk"
        self.mounts = [folder / "first", folder / "second"]
        self.mounted = []
        for made in (self.disk, *self.mounts):
            made.mkdir()

    def __enter__(self) -> "Mounts":
        for mount in self.mounts:
            try:
                finished = subprocess.run(["bindfs", self.disk, mount], capture_output=True, text=True, timeout=60)
            except FileNotFoundError:
                self.skip("bindfs is not installed (Debian: apt-get install bindfs)")
            if finished.returncode != 0:
                self.skip(f"bindfs cannot mount here: {finished.stderr.strip()}")
            self.mounted.append(mount)
        return self

    def __exit__(self, *error: object) -> None:
        for mount in self.mounted:
            subprocess.run(["umount", mount], check=False, capture_output=True)

    def skip(self, why: str) -> None:
        self.__exit__()
        print(f"skipped: {why}")
        sys.exit(77)


def matrix(path: pathlib.Path) -> bytes:
    with h5py.File(path) as file:
        assert file.attrs["complete"] == 1, path
        return file["hessian"][:].tobytes()


def main(programs: str, launch: list[str]) -> None:
    def run(program: str, *arguments: str, ranks: int = 1, folders: list[pathlib.Path], code: int = 0) -> str:
        """Rank K runs in the K-th of the folders."""
        words = [] if ranks == 1 else [*launch]
        for k in range(ranks):
            count = [] if ranks == 1 else ["-n", "1"]
            words += ([":"] if k > 0 else []) + [*count, "env", "-C", str(folders[k]), f"{programs}/{program}", *arguments]
        finished = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert finished.returncode == code, (words, finished)
        return finished.stdout + finished.stderr

    with tempfile.TemporaryDirectory() as folder, Mounts(pathlib.Path(folder)) as here:
        there = here.mounts[::-1]
        run("hessian_mpi", *JOB, "--output", "disk.h5", folders=[here.disk])
        run("hessian_mpi", *JOB, "--output", "h.h5", ranks=2, folders=here.mounts)
        for k in (0, 1):
            run("hessian_mpi", *JOB, "--rows", f"{k}/2", "--output", f"part-{k}.h5", folders=[here.mounts[k]])
        run("hessian_join", "part-0.h5", "part-1.h5", "--copy", "--output", "joined.h5", folders=there)
        expected = matrix(here.disk / "disk.h5")
        for name in ("h.h5", "joined.h5"):
            assert matrix(here.mounts[1] / name) == expected, name
        said = run("hessian_info", "h.h5", "--verify", ranks=2, folders=there)
        assert "all as they were computed" in said, said
        # Damage is seen and mended through the other mount.
        with h5py.File(here.mounts[0] / "h.h5", "r+") as file:
            file["hessian"][7, 7] += 1
        said = run("hessian_mpi", *JOB, "--output", "h.h5", "--resume", "--verify", "all", ranks=2, folders=there)
        assert "computed again" in said, said
        assert matrix(here.mounts[0] / "h.h5") == expected


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
