#!/usr/bin/env bash
# The worked example: handwritten digits, from the images to the spectrum of the Hessian. Every command is printed before
# it runs, to be typed by hand with another network and other data.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: run.sh BUILD [FOLDER [OPTION...]]

BUILD:  the folder with src/hessian_mpi, src/hessian_spectrum and src/hessian_plot
FOLDER: gets the network, the matrix, its spectrum and the pictures (default: digits)
OPTION: of train.py, such as --channels 2 3 --samples 200

PYTHON names a Python with torch, scikit-learn, h5py and matplotlib (default: python3), MPIRUN a command that starts MPI
programs (default: mpirun).
USAGE
}

case ${1:-} in
  -h | --help) usage && exit 0 ;;
  '') usage >&2 && exit 2 ;;
esac
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=$(cd "$1" && pwd)
folder=${2:-digits}
options=("${@:3}")
python=${PYTHON:-python3}
read -ra mpirun <<<"${MPIRUN:-mpirun}"
if [[ $EUID -eq 0 ]] && "${mpirun[0]}" --version | grep -q 'Open MPI'; then mpirun+=(--allow-run-as-root); fi
l2=0.001 # of the training, and so of the loss whose Hessian it is

run() {
  { echo && printf '$' && printf ' %q' "$@" && echo; } >&2
  "$@"
}

run "$python" "$here/train.py" "$folder" --l2 "$l2" "${options[@]}"
run cd "$folder"
run "${mpirun[@]}" -n 2 "$build/src/hessian_mpi" --model digits.pt2 --data digits.h5 --l2 "$l2" --output hessian.h5 --overwrite
run "${mpirun[@]}" -n 2 "$build/src/hessian_spectrum" hessian.h5 --all --largest 20 --density --overwrite
run "$python" "$build/src/hessian_plot" hessian.h5 --map --spectrum --pixels 400 --dpi 100 --palette 96 --output digits.png
run "$python" "$build/src/hessian_plot" hessian.h5 --norms --pixels 400 --dpi 100 --palette 96 --output norms.png
