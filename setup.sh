#!/usr/bin/env bash
# Installs what hessian_mpi needs, builds it, then runs it or its tests. Every command is printed before it runs, to be
# typed by hand where this script is not wanted. What is already there is not done again.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: ./setup.sh build             install what is missing, configure, build all programs
       ./setup.sh run [OPTION...]   build, then hessian_mpi on two ranks: the embedded example (N = 23365, a file of
                                    2.2 GB), or the job that its options say
       ./setup.sh digits [FOLDER]   build, then the worked example: train on handwritten digits, take the Hessian, draw
                                    it, decompose it, all into FOLDER (default: digits)
       ./setup.sh test [OPTION...]  build with the tests, then all checks and tests; options go to ctest (-R NAME)
       ./setup.sh debug [OPTION...] the tests of what has no LibTorch, in a debug build into build-debug
       ./setup.sh mpich [OPTION...] the same with MPICH instead of Open MPI, into build-mpich
       ./setup.sh tidy              clang-tidy on all sources: half an hour on two cores

LibTorch comes from the Python package torch: that of the active environment, or that which Torch_ROOT, CMAKE_PREFIX_PATH
or Torch_DIR names, or else one that is installed into .deps/python.
The package without GPU support is much smaller: set PIP_EXTRA_INDEX_URL to PyTorch's CPU wheel index to get it.
USAGE
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=.deps/python/bin/python

say() { printf '%s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null; }
run() {
  { printf '+' && printf ' %q' "$@" && echo; } >&2
  "$@"
}

# Mirrors and package indexes are sometimes away for a moment.
run_thrice() {
  local pause
  for pause in 5 20; do
    run "$@" && return
    say "setup.sh: failed, again in $pause seconds"
    sleep "$pause"
  done
  run "$@"
}

# --- packages ---------------------------------------------------------------------------------------------------------

# A user who has sudo rights is asked for the password where one is needed; others are never sent to sudo.
as_root=()
may_install() {
  have apt-get && have dpkg-query || return 1
  if [[ $EUID -eq 0 ]]; then return 0; fi
  have sudo || return 1
  sudo -n true 2>/dev/null || [[ -t 0 && " $(id -nG) " =~ \ (sudo|admin|wheel)\  ]] || return 1
  as_root=(sudo)
}

not_installed() {
  local known package
  known=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
  for package in "$@"; do
    grep -qx "installed $package" <<<"$known" || echo "$package"
  done
}

has_header() { echo "#include <$1>" | c++ ${CONDA_PREFIX:+-I"$CONDA_PREFIX/include"} -E -x c++ - >/dev/null 2>&1; }

# Whether what a Debian package is for is there from elsewhere: a module, conda, another distribution.
is_there() {
  case $1 in
    g++) have c++ ;;
    ninja-build) have ninja ;;
    python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
    libopenmpi-dev) have mpicc ;;
    openmpi-bin) have mpirun ;;
    mpich) have mpiexec.hydra ;;
    libmpich-dev) have mpicc.mpich ;;
    libhdf5-mpich-dev) have h5pcc.mpich ;;
    libhdf5-openmpi-dev) have h5pcc ;;
    hdf5-tools) have h5dump ;;
    libboost-program-options-dev) has_header boost/program_options.hpp ;;
    libgtest-dev) has_header gtest/gtest.h ;;
    nlohmann-json3-dev) has_header nlohmann/json.hpp ;;
    libxxhash-dev) has_header xxhash.h ;;
    libssl-dev) has_header openssl/evp.h ;;
    *) have "$1" ;;
  esac
}

report_missing() {
  cat >&2 <<MESSAGE
setup.sh: not found: $*
(the names are Debian's packages). They cannot be installed here: that takes Debian or Ubuntu, and root or sudo rights.
Other ways to get them:
  - ask an administrator for:  apt-get install $*
  - a cluster's modules, such as:  module load gcc openmpi hdf5-parallel boost cmake   (names differ: module avail)
  - conda:  conda install -c conda-forge cxx-compiler cmake ninja ccache openmpi 'hdf5=*=mpi_openmpi*' libboost-devel
            nlohmann_json xxhash openssl gtest python
Going on with what there is; CMake has the last word.
MESSAGE
}

install_packages() {
  local packages=(g++ cmake ninja-build ccache python3-venv libopenmpi-dev openmpi-bin libhdf5-openmpi-dev hdf5-tools
                  libboost-program-options-dev libgtest-dev nlohmann-json3-dev libxxhash-dev libssl-dev)
  if [[ $1 == test || $1 == tidy ]]; then packages+=(clang-format clang-tidy); fi
  if [[ $1 == mpich ]]; then packages+=(mpich libmpich-dev libhdf5-mpich-dev); fi
  # The tests of slurm/*.sbatch start a cluster, as only root can; others see them skipped.
  if [[ $1 == test && $EUID -eq 0 ]]; then packages+=(slurmctld slurmd); fi
  local missing=() package
  if may_install; then
    mapfile -t missing < <(not_installed "${packages[@]}")
    if [[ ${#missing[@]} -gt 0 ]]; then
      run_thrice "${as_root[@]}" apt-get update
      run_thrice "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends "${missing[@]}"
    fi
  else
    for package in "${packages[@]}"; do
      is_there "$package" || missing+=("$package")
    done
    if [[ ${#missing[@]} -gt 0 ]]; then report_missing "${missing[@]}"; fi
  fi
}

# What some programs and tests need and others do not: without it they are left out. OpenBLAS makes hessian_spectrum and
# hessian_solve many times faster than the BLAS that comes with LAPACK; help2man makes the man pages.
install_optional_packages() {
  local packages=(pkg-config liblapack-dev libopenblas0-pthread libscalapack-openmpi-dev petsc-dev slepc-dev help2man)
  if [[ $1 == test ]]; then packages+=(octave r-cran-hdf5r bindfs); fi
  local missing
  may_install || return 0
  mapfile -t missing < <(not_installed "${packages[@]}")
  [[ ${#missing[@]} -eq 0 ]] || run "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --no-install-recommends "${missing[@]}" ||
    say "setup.sh: what needs ${missing[*]} will be left out"
}

# --- LibTorch and Python ----------------------------------------------------------------------------------------------

# As src/cmake/FindTorch.cmake looks for it.
users_own_torch() {
  local place prefixes=${Torch_ROOT:-}:${CMAKE_PREFIX_PATH:-}
  [[ ! -e ${Torch_DIR:-}/TorchConfig.cmake ]] || return 0
  if [[ -n ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} ]] &&
    python3 -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'; then return 0; fi
  while IFS= read -rd : place; do
    [[ ! -e $place/Torch/TorchConfig.cmake && ! -e $place/share/cmake/Torch/TorchConfig.cmake ]] || return 0
  done <<<"${prefixes//;/:}:"
  return 1
}

# The file beside the packages lists the requirements met so far.
install_python_packages() {
  local met=.deps/python/requirements.met wanted=() requirement
  for requirement in "$@"; do
    grep -qsxF "$requirement" "$met" && "$python" -c 'import pip' || wanted+=("$requirement")
  done
  [[ ${#wanted[@]} -gt 0 ]] || return 0
  "$python" -c 'import pip' 2>/dev/null || run python3 -m venv --clear .deps/python
  run_thrice "$python" -m pip install "${wanted[@]}"
  printf '%s\n' "${wanted[@]}" >>"$met"
}

# --- build ------------------------------------------------------------------------------------------------------------

# CMake looks again for what it has not found, such as packages that came since it last ran. What it has found it keeps:
# with another command, or after a failure, it begins anew.
# configure PRESET FOLDER ARGUMENT...
configure() {
  local folder=$2 command packages
  command=(cmake --preset "$1" "${@:3}" "-DHESSIAN_MPI_TEST_PYTHON=$root/$python")
  if ! users_own_torch; then
    packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
    command+=("-DCMAKE_PREFIX_PATH=$packages/torch/share/cmake")
  fi
  if have ccache; then command+=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
  # Warnings are errors with the compiler that they were cleared with; others have others.
  [[ $("${CXX:-c++}" -dumpversion) == 12 ]] || command+=(-DHESSIAN_MPI_WERROR=OFF)

  local stamp=$folder/setup.configured state
  state="${command[*]} Torch_DIR=${Torch_DIR:-} Torch_ROOT=${Torch_ROOT:-} CMAKE_PREFIX_PATH=${CMAKE_PREFIX_PATH:-}"
  state+=" environment=${VIRTUAL_ENV:-}${CONDA_PREFIX:-} $(cksum <CMakePresets.json)"
  if [[ $(cat "$stamp" 2>/dev/null) == "$state" ]]; then
    run "${command[@]}" --log-level=ERROR >/dev/null
  else
    if [[ -e $stamp ]]; then command+=(--fresh); fi
    mkdir -p "$folder"
    : >"$stamp"
    run "${command[@]}"
    echo "$state" >"$stamp"
  fi
  [[ $mode == run || $mode == mpich ]] || grep -q hessian_spectrum "$folder/build.ninja" ||
    say "setup.sh: left out: hessian_spectrum, hessian_solve and their tests: CMake has not found all that they need"
}

# LibTorch's headers take up to 3 GB of memory a compiler.
compilers() {
  local by_memory
  by_memory=$(awk '/^MemAvailable/ { print int($2 / 3e6) }' /proc/meminfo)
  echo $((by_memory < 1 ? 1 : by_memory < $(nproc) ? by_memory : $(nproc)))
}

# What remains of a build: on a terminal in one line that changes, in a log in a line at each tenth. A source with LibTorch
# takes five times as long as another; how long that is, is known once some are done, and taken for 2.5 s before. It reads
# what Ninja would do, and after an empty line what it does. What compilers say is passed on.
show_progress() {
  awk -v compilers="$1" -v terminal="$([[ -t 2 ]] && echo 1)" '
    function weight() { return !/Building/ ? 1 : /\/(network|engines|layers|run)\// ? 50 : 10 }
    function show(line) { if (terminal) printf "\r\033[K%s", line; else print line; fflush() }
    function about(seconds) { return seconds < 90 ? sprintf("%.0f s", seconds) : sprintf("%.0f min", seconds / 60) }
    /^$/ && !building { building = 1; if (all) show("build: " steps " steps, about " about(all / 4 / compilers)); next }
    !building { if (/^\[/) { all += weight(); steps++ } next }
    !/^#/ { print (terminal ? "\r\033[K" : "") $0; fflush(); next }
    {
      done += weight()
      if (terminal || int(10 * done / all) > tenth || $2 == $3)
        show("build: " $2 " of " $3 " steps in " about($4) ", about " about($4 * (all / done - 1)) " left")
      tenth = int(10 * done / all)
    }
    END { if (terminal && steps) print "" }' >&2
}

# build PRESET FOLDER TARGET...
build() {
  local preset=$1 folder=$2 jobs
  shift 2
  jobs=$(compilers)
  {
    ninja -C "$folder" -n "$@" && echo &&
      NINJA_STATUS='# %f %t %e ' run cmake --build --preset "$preset" --parallel "$jobs" --target "$@"
  } | show_progress "$jobs"
}

prepare() {
  install_packages "$1"
  if [[ $1 != run ]]; then install_optional_packages "$1"; fi
  if [[ $1 == test || $1 == digits ]]; then
    install_python_packages torch==2.13.0 numpy h5py matplotlib scikit-learn
  elif ! users_own_torch; then
    install_python_packages torch==2.13.0
  fi
}

# --- run and test -----------------------------------------------------------------------------------------------------

# Open MPI counts cores, not hyperthreads.
cores() {
  local physical
  physical=$(lscpu -p=CORE,SOCKET 2>/dev/null | grep -v '^#' | sort -u | wc -l)
  echo $((physical > 0 && physical < $(nproc) ? physical : $(nproc)))
}

is_open_mpi() { mpirun --version 2>/dev/null | grep -q 'Open MPI'; }

is_example() { h5dump -a model "$1" 2>/dev/null | grep -q '"embedded example"'; }

run_program() {
  local launch=(mpirun -n 2) program=$root/build/src/hessian_mpi
  if is_open_mpi; then
    if [[ $EUID -eq 0 ]]; then launch+=(--allow-run-as-root); fi
    if [[ $(cores) -lt 2 ]]; then launch+=(--oversubscribe); fi
  fi
  # The example may replace the example's file, and nothing else.
  if [[ $# -eq 0 ]] && is_example hessian.h5; then set -- --overwrite; fi
  run "${launch[@]}" "${program#"$PWD/"}" "$@"
}

# Another version formats and warns differently.
has_clang_14() { have "$1" && "$1" --version | grep -q 'version 14\.'; }

check_format() {
  if ! has_clang_14 clang-format; then
    say "setup.sh: clang-format 14 not found: formatting is not checked"
    return
  fi
  local sources
  mapfile -t sources < <(find include src tests -name '*.[ch]pp' | sort)
  run clang-format --dry-run -Werror "${sources[@]}"
}

# LibTorch's headers take clang-tidy most of a minute a source, and it reads no header that g++ precompiled: `test` looks at
# the sources that have neither, without the families of checks that take most of the time; `tidy` at all, with all checks.
quick_checks='-clang-analyzer-*,-modernize-*,-performance-*,-bugprone-*,bugprone-use-after-move'
sources_without_torch() {
  comm -12 \
    <(ninja -C build -t deps | awk -v RS= -F '\n *' '/^src\// && !/\/torch\/csrc\// { print $2 }' | sort) \
    <(awk -F '"' '/"command":/ { precompiled = /cmake_pch/ } /"file":/ && !precompiled { print $4 }' \
      build/compile_commands.json | sort)
}

# check_with_clang_tidy FOLDER CHECKS SOURCE...
check_with_clang_tidy() {
  if ! has_clang_14 clang-tidy; then
    say "setup.sh: clang-tidy 14 not found: not run"
    return
  fi
  local folder=$1 checks=$2 stamp state
  shift 2
  stamp=$folder/setup.clang-tidy
  state=$({ cat .clang-tidy "$@" && find include src -name '*.hpp' -exec cat {} +; } | cksum)
  if [[ $(cat "$stamp" 2>/dev/null) == "$state" ]]; then return; fi
  run run-clang-tidy -quiet -p "$folder" -checks="$checks" -j "$(nproc)" -extra-arg=-Wno-unknown-warning-option "$@"
  echo "$state" >"$stamp"
}

case ${1:-} in
  build | run | digits | test | debug | mpich | tidy) ;;
  -h | --help) usage && exit 0 ;;
  *) usage >&2 && exit 2 ;;
esac
mode=$1
shift
tests=$(($(nproc) + 1)) # at once: they wait for processes that start and end

here=$PWD
if [[ $here != "$root" ]]; then run cd "$root"; fi
prepare "$mode"
case $mode in
  build)
    configure release build
    build release build programs
    ;;
  run)
    configure release build
    build release build hessian_mpi
    if [[ $here != "$root" ]]; then run cd "$here"; fi
    run_program "$@"
    ;;
  digits)
    configure release build
    build release build hessian_mpi hessian_spectrum
    export PYTHON=$root/$python
    if is_open_mpi && [[ $(cores) -lt 2 ]]; then export MPIRUN='mpirun --oversubscribe'; fi
    if [[ $here != "$root" ]]; then run cd "$here"; fi
    run "$root/tests/worked_example/run.sh" "$root/build" "$@"
    ;;
  test)
    configure release build
    check_format
    build release build all
    mapfile -t sources < <(sources_without_torch)
    check_with_clang_tidy build "$quick_checks" "${sources[@]}"
    run ctest --preset release --parallel "$tests" "$@"
    ;;
  debug)
    configure debug build-debug
    build debug build-debug tests_without_torch
    run ctest --preset debug -L without_torch --parallel "$tests" "$@"
    ;;
  mpich)
    configure mpich build-mpich -DCMAKE_BUILD_TYPE=Debug
    build mpich build-mpich tests_without_torch
    run ctest --preset mpich -L without_torch --parallel "$tests" "$@"
    ;;
  tidy)
    configure release build-tidy -B build-tidy -DHESSIAN_MPI_PCH=OFF -DHESSIAN_MPI_UNITY=OFF
    mapfile -t sources < <(find "$root/src" -name '*.cpp' | sort)
    check_with_clang_tidy build-tidy '' "${sources[@]}"
    ;;
esac
