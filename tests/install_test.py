"""What `cmake --install` puts where: programs that start there, batch scripts that call what is on the PATH, packages.

    install_test.py CMAKE BUILD"""
import pathlib
import re
import subprocess
import sys
import tempfile

CMAKE, BUILD = sys.argv[1:]

with tempfile.TemporaryDirectory(prefix="hessian_mpi_test_") as folder:
    prefix = pathlib.Path(folder)
    subprocess.run([CMAKE, "--install", BUILD, "--prefix", folder], check=True, stdout=subprocess.DEVNULL)
    programs = sorted((prefix / "bin").iterdir())
    assert len(programs) >= 6, programs
    for program in programs:
        told = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
        assert re.match(rf"{program.name} \d+\.\d+\.\d+", told), (program, told)
    share = prefix / "share/hessian_mpi"
    scripts = sorted((share / "slurm").iterdir())
    assert len(scripts) == 5, scripts
    for script in scripts:
        named = re.search(r"^program=(\S+)$", script.read_text(), re.M)
        assert named and (prefix / "bin" / named[1]).exists() and script.stat().st_mode & 0o100, script
        subprocess.run(["bash", "-n", script], check=True)
    packages = subprocess.run([sys.executable, "-c", "import hessian_file, hessian_mpi.program as program; print(program.find())"],
                              env={"PYTHONPATH": str(share), "PATH": "/usr/bin:/bin"}, check=True, capture_output=True, text=True)
    assert packages.stdout.strip() == str((prefix / "bin/hessian_mpi").resolve()), packages
    print("ok:", len(programs), "programs and", len(scripts), "scripts")
