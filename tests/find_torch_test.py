"""src/cmake/FindTorch.cmake on LibTorches that are folders of empty files, in a project that only looks for one.

    find_torch_test.py FOLDER CMAKE"""
import os
import pathlib
import subprocess
import sys
import tempfile

TREE, CMAKE = pathlib.Path(sys.argv[1]), sys.argv[2]
PROJECT = """cmake_minimum_required(VERSION 3.25)
project(looks NONE)
list(APPEND CMAKE_MODULE_PATH {tree}/src/cmake)
find_package(Torch 2.9 REQUIRED)
get_target_property(definitions Torch::Torch INTERFACE_COMPILE_DEFINITIONS)
get_target_property(libraries Torch::Torch INTERFACE_LINK_LIBRARIES)
message("found=${{Torch_VERSION}}|${{Torch_DEVICES}}|${{definitions}}|${{libraries}}|")
"""
TARGETS = """set_target_properties(torch_cpu PROPERTIES
  INTERFACE_COMPILE_DEFINITIONS "USE_DISTRIBUTED;USE_RPC"
)
set_target_properties(torch_cuda PROPERTIES
  INTERFACE_COMPILE_DEFINITIONS "USE_NVSHMEM"
)"""


class Looks:
    def __init__(self, folder):
        self.folder = folder
        self.write("project/CMakeLists.txt", PROJECT.format(tree=TREE))
        self.builds = 0

    def write(self, name, text=""):
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def torch(self, place, version="2.13.0", devices=(), config="", without=()):
        names = ["torch", "torch_cpu", "c10", *(f"{library}_{device}" for library in ("torch", "c10") for device in devices)]
        for file in (*(f"lib/lib{name}.so" for name in names), "include/torch/csrc/autograd/autograd.h"):
            if file not in without:
                self.write(f"{place}/{file}")
        package = f"{place}/share/cmake"
        self.write(f"{package}/Torch/TorchConfig.cmake", config)
        self.write(f"{package}/Torch/TorchConfigVersion.cmake", f'set(PACKAGE_VERSION "{version}")\n')
        self.write(f"{package}/Caffe2/Caffe2Targets.cmake", TARGETS)
        return self.folder / place

    def configure(self, *options, **variables):
        """What was found: version, devices, definitions, libraries; or the message that nothing was."""
        self.builds += 1
        environment = {"PATH": os.environ["PATH"], **{name: str(value) for name, value in variables.items()}}
        command = [CMAKE, "-S", "project", "-B", f"build{self.builds}", f"-DPython3_EXECUTABLE={sys.executable}", *options]
        run = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        said = run.stdout + run.stderr
        return said.split("found=")[1].split("|")[:4] if run.returncode == 0 else " ".join(said.split())


def every_place_is_looked_at(looks):
    zip_folder, package = looks.torch("zip/libtorch"), looks.torch("site-packages/torch", "2.14.1")
    looks.write("site-packages/torch/__init__.py", "raise RuntimeError('imported')")
    cmake_folder = package / "share/cmake"
    for version, options, variables in (
        ("2.13.0", [f"-DTorch_ROOT={zip_folder}"], {}),
        ("2.13.0", [f"-DCMAKE_PREFIX_PATH={zip_folder}"], {}),
        ("2.13.0", [f"-DTorch_DIR={zip_folder}/share/cmake/Torch"], {}),
        ("2.13.0", [], {"Torch_ROOT": zip_folder}),
        ("2.13.0", [], {"CMAKE_PREFIX_PATH": zip_folder}),
        ("2.13.0", [], {"Torch_DIR": zip_folder / "share/cmake/Torch"}),
        ("2.14.1", [f"-DCMAKE_PREFIX_PATH={cmake_folder}"], {}),  # torch.utils.cmake_prefix_path
        ("2.14.1", [f"-DCMAKE_PREFIX_PATH={package.parent}"], {}),
        ("2.14.1", [], {"PYTHONPATH": package.parent}),
        ("2.13.0", [f"-DTorch_ROOT={zip_folder}"], {"PYTHONPATH": package.parent}),
        ("2.13.0", [], {"Torch_DIR": zip_folder / "share/cmake/Torch", "PYTHONPATH": package.parent}),
    ):
        found = looks.configure(*options, **variables)
        assert found[0] == version, (options, variables, found)


def devices_are_those_whose_libraries_are_there(looks):
    for devices, names in ((("cuda",), "cpu;cuda"), (("hip",), "cpu;rocm"), ((), "cpu")):
        place = looks.torch("_".join(("torch", *devices)), devices=devices)
        _, told, definitions, libraries = looks.configure(f"-DTorch_ROOT={place}")
        assert told == names and definitions == "USE_DISTRIBUTED;USE_RPC", (told, definitions)
        for device in devices:
            assert f"{place}/lib/libtorch_{device}.so" in libraries.split(";"), libraries


def the_abi_is_the_packages(looks):
    place = looks.torch("old_abi", config='set(TORCH_CXX_FLAGS "-D_GLIBCXX_USE_CXX11_ABI=0")\n')
    assert looks.configure(f"-DTorch_ROOT={place}")[2].split(";")[-1] == "_GLIBCXX_USE_CXX11_ABI=0"


def what_cannot_do_is_refused(looks):
    old = looks.torch("old", "2.8.0")
    assert 'unsuitable version "2.8.0"' in looks.configure(f"-DTorch_ROOT={old}")
    bare = looks.torch("bare", without=("include/torch/csrc/autograd/autograd.h",))
    said = looks.configure(f"-DTorch_ROOT={bare}")
    assert f"{bare} has no include/torch/csrc/autograd/autograd.h: take another" in said, said


for case in (every_place_is_looked_at, devices_are_those_whose_libraries_are_there, the_abi_is_the_packages,
             what_cannot_do_is_refused):
    with tempfile.TemporaryDirectory(prefix="hessian_mpi_test_") as folder:
        case(Looks(pathlib.Path(folder).resolve()))
    print("ok:", case.__name__)
