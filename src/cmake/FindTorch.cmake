# Finds LibTorch without PyTorch's own package, which asks for a CUDA toolkit where LibTorch was built with CUDA, though
# nothing here includes its headers. The first of these is taken:
#   - -DTorch_DIR, the folder of TorchConfig.cmake; Torch_ROOT or CMAKE_PREFIX_PATH: the unpacked zip, a Python's
#     site-packages/torch or its share/cmake, a prefix of conda; each as a variable of CMake or of the environment;
#   - the package torch of the active environment's Python.
# Makes the target Torch::Torch, Torch_VERSION, Torch_DEVICES (of cpu, cuda, rocm, xpu), Torch_INCLUDE_DIRS and
# Torch_LIBRARY_DIR.

# Where Python would import torch from, without the seconds that importing takes. pip hides the environment's packages
# from what it builds, by variables that -I does not look at.
find_package(Python3 QUIET COMPONENTS Interpreter)
set(torch_places "")
foreach(flag -B -I)
  if(Python3_FOUND AND NOT torch_places)
    execute_process(COMMAND ${Python3_EXECUTABLE} ${flag} -c
        "import importlib.util, sys; print(*importlib.util.find_spec('torch').submodule_search_locations, sys.prefix, sep=';')"
      OUTPUT_VARIABLE torch_places OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endforeach()
find_path(Torch_DIR TorchConfig.cmake HINTS ENV Torch_DIR ${torch_places}
          PATH_SUFFIXES Torch torch/share/cmake/Torch share/cmake/Torch DOC "Folder of LibTorch's TorchConfig.cmake")
get_filename_component(torch_prefix "${Torch_DIR}/../../.." ABSOLUTE)
set(Torch_LIBRARY_DIR ${torch_prefix}/lib)
set(Torch_INCLUDE_DIRS ${torch_prefix}/include ${torch_prefix}/include/torch/csrc/api/include)

set(torch_is_whole TRUE)
set(torch_fault "")
if(NOT Torch_DIR)
  string(CONCAT torch_fault "LibTorch is not there: activate a Python environment with PyTorch (python3 -m pip install "
                            "torch), or say where one is: -DTorch_ROOT=FOLDER, an unpacked libtorch zip or site-packages/torch")
else()
  foreach(file include/torch/csrc/autograd/autograd.h lib/libtorch.so lib/libtorch_cpu.so lib/libc10.so)
    if(NOT EXISTS ${torch_prefix}/${file})
      set(torch_is_whole FALSE)
      set(torch_fault "${torch_prefix} has no ${file}: take another LibTorch, by -DTorch_ROOT=FOLDER")
    endif()
  endforeach()
endif()
# What its CMake package says, of which nothing is run.
set(torch_package "")
foreach(file Torch/TorchConfig Torch/TorchConfigVersion Caffe2/Caffe2Targets)
  if(EXISTS ${Torch_DIR}/../${file}.cmake)
    file(READ ${Torch_DIR}/../${file}.cmake text)
    string(APPEND torch_package "${text}")
  endif()
endforeach()
string(REGEX MATCH "PACKAGE_VERSION \"([^\"]*)\"" Torch_VERSION "${torch_package}")
set(Torch_VERSION "${CMAKE_MATCH_1}")
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Torch REQUIRED_VARS Torch_DIR torch_is_whole VERSION_VAR Torch_VERSION
                                  REASON_FAILURE_MESSAGE "${torch_fault}")

if(Torch_FOUND AND NOT TARGET Torch::Torch)
  add_library(Torch::Torch INTERFACE IMPORTED)
  target_include_directories(Torch::Torch INTERFACE ${Torch_INCLUDE_DIRS})
  # The standard library first: PyTorch's wheels export a copy of std::filesystem, and that of 2.9 crashes in remove_all().
  target_link_libraries(Torch::Torch INTERFACE stdc++
                        ${Torch_LIBRARY_DIR}/libtorch.so ${Torch_LIBRARY_DIR}/libtorch_cpu.so ${Torch_LIBRARY_DIR}/libc10.so)
  set(Torch_DEVICES cpu)
  foreach(name cuda hip xpu)
    if(EXISTS ${Torch_LIBRARY_DIR}/libtorch_${name}.so)
      list(APPEND Torch_DEVICES ${name})
      target_link_libraries(Torch::Torch INTERFACE
                            ${Torch_LIBRARY_DIR}/libtorch_${name}.so ${Torch_LIBRARY_DIR}/libc10_${name}.so)
    endif()
  endforeach()
  list(TRANSFORM Torch_DEVICES REPLACE "^hip$" rocm)
  # Nobody calls into the libraries of devices: they are there for what they register as they are loaded.
  target_link_options(Torch::Torch INTERFACE LINKER:--no-as-needed)
  # What the package has its users compile with.
  if(torch_package MATCHES "set_target_properties\\(torch_cpu PROPERTIES[^)]*INTERFACE_COMPILE_DEFINITIONS \"([^\"]*)\"")
    target_compile_definitions(Torch::Torch INTERFACE ${CMAKE_MATCH_1})
  endif()
  if(torch_package MATCHES "_GLIBCXX_USE_CXX11_ABI=([01])")
    target_compile_definitions(Torch::Torch INTERFACE _GLIBCXX_USE_CXX11_ABI=${CMAKE_MATCH_1})
  endif()
  if(torch_package MATCHES "CXX_STANDARD ([0-9]+)")
    target_compile_features(Torch::Torch INTERFACE cxx_std_${CMAKE_MATCH_1})
  endif()
endif()
