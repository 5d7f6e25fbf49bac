"""A job for hessian_mpi from a network, data and a loss in Python: model.pt2, data.h5 and job.cfg in one folder."""

from __future__ import annotations

import fnmatch
import inspect
import os
import pathlib
import re
import shlex
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import check, data_file, trace
from .batch import Layout, described
from .check import ExportError
from .loss import Loss, make_loss, reduction_of, text_of_options, without_loss
from .program import find, require_options

MODEL, DATA, CONFIG, HESSIAN = "model.pt2", "data.h5", "job.cfg", "hessian.h5"
_SAMPLES_TO_CHECK = 32
_PATHS = ("data", "model", "output", "values")  # options that name files


def export(folder: str | os.PathLike, network: nn.Module, data: Any, loss: str | Callable = "cross_entropy", *,
           loss_options: dict[str, Any] | None = None, whole: Collection[str] | bool = False, ranks: int = 2,
           **options: Any) -> pathlib.Path:
    """Writes FOLDER/model.pt2, data.h5 and job.cfg, and prints the line that computes FOLDER/hessian.h5.

    data: (inputs, targets), or inputs alone: tensors, tuples of them, dicts by the names of forward's arguments; a Dataset,
    a DataLoader or an iterable of such batches, written one by one. The first dimension is the sample, but of tensors named
    in `whole` (True: of all). loss: a name with loss_options, a function of (output, target), or of (model, batch), with
    the first argument called so. options: those of hessian_mpi, batch_size=64, dtype="float64", l2=1e-3,
    with_respect_to="inputs:positions".

    The network's mode, frozen parameters and ties stay as they are. Before it returns, loss and gradient of the exported
    program are compared with Python's. Raises DataError, ExportError or ValueError, which say what to change.
    """
    folder = pathlib.Path(folder)
    require_options(options, export.__kwdefaults__, _program_if_any())
    write_job(folder, network, data, loss, loss_options or {}, whole, options)
    print(f"cd {shlex.quote(str(folder))} && mpirun -n {ranks} hessian_mpi --config {CONFIG}")
    return folder


def _program_if_any() -> str | None:
    """Clusters have it, the machine on which a job is exported need not."""
    try:
        return find()
    except FileNotFoundError:
        return None


def write_job(folder: pathlib.Path, network: nn.Module, data: Any, loss: str | Callable, loss_options: dict[str, Any],
              whole: Collection[str] | bool, options: dict[str, Any]) -> None:
    """What `export` does, but for the line to run."""
    by_inputs = _is_by_inputs(options)
    require_network(network, by_inputs)
    if options.get("values") and not os.path.exists(options["values"]):
        raise FileNotFoundError(f"values='{options['values']}' is not there")
    job = _Job(network, make_loss(loss, loss_options, options.get("reduction", "mean")), options)
    trace.keep_lines_of(loss)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)  # without it there is no job until this one is whole
    words = job.write_data(folder / DATA, data, whole)
    words += job.write_model(folder / MODEL)
    job.write_config(folder / CONFIG)
    frozen = 0 if by_inputs else sum(not p.requires_grad for p in network.parameters())
    where = f"elements of {', '.join(job.names)}" if by_inputs else f"in {len(job.names)} tensors"
    print(f"{folder / MODEL}: N = {job.numbers} {where}{f', {frozen} frozen' if frozen else ''}; in {_mode(network)} mode, as "
          "the network is")
    for line in words:
        print(f"  {line}")


def require_network(network: Any, by_inputs: bool) -> None:
    if not isinstance(network, nn.Module):
        raise TypeError(f"the network is a {type(network).__name__}; expected is a torch.nn.Module")
    parameters = check.trainable(network)
    if not parameters and not by_inputs:
        raise ValueError("no parameter of the network requires a gradient: there is nothing to derive by")
    for name, p in parameters.items():
        if p.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"parameter '{name}' is {p.dtype}; derivatives are in float32 or float64: network.float()")
        if p.device.type != "cpu":
            raise ValueError(f"parameter '{name}' is on {p.device}; files are written from the CPU: network.cpu(), and "
                             "device='cuda' computes on GPUs")


def _is_by_inputs(options: dict[str, Any]) -> bool:
    by = options.get("with_respect_to", "parameters")
    if not isinstance(by, str) or not re.fullmatch("parameters|inputs|inputs:.+", by):
        raise ValueError(f"with_respect_to={by!r} is none of: 'parameters', 'inputs' (all that are floating-point), 'inputs:NAME', "
                         "'inputs:NAME,NAME'")
    return by != "parameters"


def _mode(network: nn.Module) -> str:
    modes = {module.training for module in network.modules()}
    return "mixed" if len(modes) > 1 else "train" if True in modes else "eval"


class _Job:
    """What the exported program is made of and compared with."""

    def __init__(self, network: nn.Module, loss: Loss, options: dict[str, Any]):
        self.network, self.loss, self.options = network, loss, options
        self.batch_size: int | None = options.get("batch_size")
        self.by_inputs = _is_by_inputs(options)

    # --- data

    def write_data(self, path: pathlib.Path, data: Any, whole: Collection[str] | bool) -> list[str]:
        if whole is False and self.batch_size is None and _is_whole(data, self.by_inputs and self.loss.in_model):
            whole = True
        if whole is True and self.batch_size is not None:
            raise ValueError("whole=True leaves nothing that batch_size cuts into batches: name the tensors that are not cut")
        written = data_file.write(path, data, whole, self._layout_of)
        self.layout: Layout = written.layout
        self.first = written.first
        self.samples = written.samples
        self.is_cut = [whole is False or (whole is not True and name not in whole) for name in self.layout.names]
        self.whole = [] if isinstance(whole, bool) else sorted(whole)
        if not all(self.is_cut):  # a loss of the program's own is a mean over samples
            self.loss = _inside(self.loss)
        self._require_outputs()
        has_targets = self.layout.inputs < len(self.layout.names)
        if self.options.get("matrix") == "jacobian" and not has_targets and self.loss.name != "triplet":
            self.loss = without_loss()
        self._find_spanning_inputs()
        return [f"{path}: {self.samples} samples" if self.samples else f"{path}: whole, not cut into samples"]

    def _layout_of(self, batch: Any) -> Layout:
        """With the names of forward()'s arguments, where the network is called with inputs, or targets too."""
        try:
            parameters = inspect.signature(self.network.forward).parameters.values()
        except (TypeError, ValueError):  # of C++
            parameters = ()
        by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return Layout(batch, [p.name for p in parameters if p.kind in by_place], self.loss.parts_given)

    def _require_outputs(self) -> None:
        """For matrices that are made of derivatives of the network's outputs, one by one."""
        matrix = self.options.get("matrix", "hessian")
        if not self.loss.in_model or matrix not in ("ggn", "fisher", "jacobian", "gradients"):
            return
        if not all(self.is_cut):
            raise ValueError(f"matrix='{matrix}' is of samples, and these data are not cut into samples")
        if matrix == "jacobian":
            raise ValueError("matrix='jacobian' is of the network's outputs, into which no loss enters: leave loss out")
        raise ValueError(f"matrix='{matrix}' is made of the network's outputs and the loss of each: give a loss by its name, such "
                         "as loss='mse', or PyTorch's own function; another function is exported as one with the network, which "
                         "then returns the loss alone")

    # --- what the Hessian is by

    def _find_spanning_inputs(self) -> None:
        """Names of the inputs that rows and columns are of, or of parameters, and how many numbers there are."""
        patterns = self.options.get("parameters") or "*"
        patterns = patterns.split() if isinstance(patterns, str) else patterns
        chosen = {name: p for name, p in check.trainable(self.network).items()
                  if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}
        self.names = list(chosen)
        self.numbers = sum(p.numel() for p in chosen.values())
        if not self.by_inputs:
            return
        inputs = dict(zip(self.layout.names[:self.layout.inputs], self.first))
        floating = [name for name, tensor in inputs.items() if tensor.is_floating_point()]
        _, _, wanted = self.options["with_respect_to"].partition(":")
        self.names = wanted.split(",") if wanted else floating
        for name in self.names:
            if name not in inputs:
                raise ValueError(f"with_respect_to: the data have no input '{name}'; they have {', '.join(inputs)}")
            if name not in floating:
                raise ValueError(f"with_respect_to: the input '{name}' is {described(inputs[name])}, by which nothing is derived: "
                                 "only floating-point inputs span a Hessian")
        if not self.names:
            raise ValueError(f"with_respect_to: none of the inputs {', '.join(inputs)} is floating-point")
        rows = [(self.samples or 0) if cut else len(tensor) for tensor, cut in zip(self.first, self.is_cut)]
        self.numbers = sum(tensor[:1].numel() * count for name, tensor, count in zip(self.layout.names, self.first, rows)
                           if name in self.names)

    def _spanning(self, tensors: list[Tensor]) -> dict[str, Tensor] | None:
        """Those of a batch that the gradient is by; None where it is by parameters."""
        if not self.by_inputs:
            return None
        return {name: tensor.requires_grad_() for name, tensor in zip(self.layout.names, tensors) if name in self.names}

    def _require_dependence(self, users: list[check.Point]) -> None:
        if self.by_inputs and not any(bool(g.any()) for _, gradient in users for g in gradient.values()):
            raise ExportError(f"the loss does not depend on {', '.join(self.names)}: its gradient by them is zero here and some "
                              "hundredths away. A detach() cuts inputs off")

    # --- model

    def write_model(self, path: pathlib.Path) -> list[str]:
        """By the first way whose program computes what Python does."""
        faults: dict[str, trace.Way] = {}
        unchecked = path.with_name("unchecked.pt2")
        try:
            for way, tensors, dynamic in self._ways():
                users, where = self._points(tensors, dynamic)
                self._require_dependence(users)
                try:
                    self._export(unchecked, way, tensors, dynamic)
                    difference = check.require_equal(users, self._exported_points(unchecked, tensors, dynamic), where)
                except Exception as error:  # of many kinds
                    faults.setdefault(str(error) if isinstance(error, ExportError) else _words_of(error), way)
                    continue
                self._find_reduction(tensors)
                unchecked.replace(path)
                return self._words(way, tensors, dynamic, difference, where)
        finally:
            unchecked.unlink(missing_ok=True)
        if not faults:
            self._point(self.network, self._loss_in_python, self.first, {})  # what fails in Python fails here with its words
            batches = f"batches of {self.batch_size}" if self.batch_size else "all"
            raise ExportError(f"{batches} samples do not fit: the loss takes {self._size(self.first)} of the {self.samples} "
                              "samples at once in Python, and no other number")
        raise ExportError("\n".join(f"{way.value}: {fault}" for fault, way in faults.items()))

    def _export(self, path: pathlib.Path, way: trace.Way, tensors: list[Tensor], dynamic: list[bool]) -> None:
        taken = self._taken()
        program = trace.export_program(self.network, self._compute, self.layout.names[:taken], tensors[:taken], dynamic[:taken],
                                       way)
        trace.save(program, path)
        self.is_training = trace.is_training(program)

    def _ways(self) -> Iterator[tuple[trace.Way, list[Tensor], list[bool]]]:
        """Sizes that are open first, then those of the data; torch.export before make_fx, which takes layers apart."""
        fixed = [False] * len(self.first)
        exact = self.batch_size or self.samples
        fits = exact is None or (self._size(self.first) >= exact and (self.samples or exact) % exact == 0)
        few = self._some(_SAMPLES_TO_CHECK)
        is_open = self._size(few) > 1 and self._works_in_python(self._other_size(few))
        for way in (trace.Way.EXPORT, trace.Way.PLAIN):
            if is_open:
                yield way, few, self.is_cut
            if fits:
                yield way, self._some(exact), fixed
        if fits and exact == self.samples:
            yield trace.Way.PLAIN_WITH_VALUES, self._some(exact), fixed

    def _some(self, samples: int | None) -> list[Tensor]:
        """The first ones; all for None."""
        return [tensor.clone() for tensor in self._slice(self.first, 0, samples or self._size(self.first))]

    def _size(self, tensors: list[Tensor]) -> int:
        """Samples; 0 where all is whole."""
        return next((len(tensor) for tensor, cut in zip(tensors, self.is_cut) if cut), 0)

    def _other_size(self, tensors: list[Tensor]) -> list[Tensor]:
        half = self._size(tensors) // 2
        if half > 1:
            return self._slice(tensors, 0, half)
        return [torch.cat([tensor, tensor]) if cut else tensor for tensor, cut in zip(tensors, self.is_cut)]

    def _works_in_python(self, tensors: list[Tensor]) -> bool:
        """Whether these are a number of samples that the user's functions take."""
        try:
            self._point(self.network, self._loss_in_python, tensors, {})
        except Exception:
            return False
        return True

    def _taken(self) -> int:
        """How many of the tensors the program takes: targets only where it computes the loss."""
        return len(self.first) if self.loss.in_model else self.layout.inputs

    def _compute(self, network: Any, tensors: list[Tensor]) -> Any:
        return self.loss.compute(network, self.layout, tensors)

    def _loss_in_python(self, tensors: list[Tensor]) -> Tensor:
        tensors = [tensor.clone() for tensor in tensors]
        return self.loss.value(self._compute(self.network, tensors), self.layout, tensors)

    def _cases(self, tensors: list[Tensor], dynamic: list[bool]) -> Iterator[tuple[list[Tensor], dict[str, Tensor], str]]:
        moved = check.perturbed(self.network)
        yield tensors, {}, "at the inputs" if self.by_inputs else "at the parameters"
        if spanning := self._spanning([tensor.detach().clone() for tensor in tensors]):
            moved_inputs = check.perturbed_inputs(spanning)
            tensors = [moved_inputs.get(name, tensor) for name, tensor in zip(self.layout.names, tensors)]
            yield tensors, moved, "at inputs and parameters moved by some hundredths"
        else:
            yield tensors, moved, "at parameters moved by some hundredths"
        if any(dynamic):
            other = self._other_size(tensors)
            yield other, moved, f"there with {self._size(other)} samples"

    def _point(self, network: nn.Module, loss: Callable[[list[Tensor]], Tensor], data: list[Tensor],
               point: dict[str, Tensor]) -> check.Point:
        own = [tensor.detach().clone() for tensor in data]
        return check.loss_and_gradient(network, lambda: loss(own), point, self._spanning(own))

    def _points(self, tensors: list[Tensor], dynamic: list[bool]) -> tuple[list[check.Point], list[str]]:
        cases = list(self._cases(tensors, dynamic))
        return ([self._point(self.network, self._loss_in_python, data, point) for data, point, _ in cases],
                [words for _, _, words in cases])

    def _exported_points(self, path: pathlib.Path, tensors: list[Tensor], dynamic: list[bool]) -> list[check.Point]:
        """Of the program that is in the file."""
        module = torch.export.load(path).module()
        _tie(module, self.network)

        def loss(data: list[Tensor]) -> Tensor:
            data = [tensor.clone() for tensor in data]
            return self.loss.value(module(*data[:self._taken()]), self.layout, data)

        return [self._point(module, loss, data, point) for data, point, _ in self._cases(tensors, dynamic)]

    def _find_reduction(self, tensors: list[Tensor]) -> None:
        """Whether a loss in the model is a mean or a sum over samples, which the program asks --reduction for."""
        samples = self._size(tensors)
        if not self.loss.in_model or samples < 2:
            return
        parts = [tensors, self._slice(tensors, 0, samples // 2), self._slice(tensors, samples // 2, samples)]
        if not all(self._works_in_python(part) for part in parts):
            return
        moved = check.perturbed(self.network)  # at a minimum all may be rounding
        values = [float(self._point(self.network, self._loss_in_python, part, moved)[0]) for part in parts]
        found = reduction_of(values, [samples // 2, samples - samples // 2])
        if found is None and self.batch_size is not None:
            raise ExportError(f"the loss neither averages nor sums over samples: it is {values[0]:.7g} of {samples}, and "
                              f"{values[1]:.7g} and {values[2]:.7g} of their halves. Without batch_size it is that of all samples")
        wanted = self.options.get("reduction", found)
        if found is not None and wanted != found:
            raise ExportError(f"the loss is a {found} over samples, and reduction is '{wanted}': write reduction='{found}', or "
                              "leave it out")
        self.options = {**self.options, "reduction": wanted}

    def _slice(self, tensors: list[Tensor], begin: int, end: int) -> list[Tensor]:
        return [tensor[begin:end] if cut else tensor for tensor, cut in zip(tensors, self.is_cut)]

    def _words(self, way: trace.Way, tensors: list[Tensor], dynamic: list[bool], difference: float, where: list[str]) -> list[str]:
        samples = self._size(tensors)
        size = "for any number of samples" if any(dynamic) else f"for {samples} samples" if samples else "for these sizes"
        equal = f"differ by {difference:.0e}" if difference else "are equal"
        return [f"exported {way.value}, {size}", f"loss and gradient, here and in Python, {equal}: {', '.join(where)}"]

    # --- configuration

    def write_config(self, path: pathlib.Path) -> None:
        own = {name.replace("_", "-"): path_in_job(name, value, path.parent) for name, value in self.options.items()}
        options = {"model": MODEL, "data": DATA, "loss": self.loss.name, "loss-option": text_of_options(self.loss.options),
                   "whole": self.whole, "mode": "train" if self.is_training else "", "output": HESSIAN, **own}
        path.write_text("".join(f"{line}\n" for line in config_lines(options)))


def path_in_job(option: str, value: Any, folder: pathlib.Path) -> Any:
    """What is a path for the caller, for the program, which runs in the job's folder: files in it stay so when it is moved."""
    if not isinstance(value, (str, os.PathLike)) or not (option in _PATHS or isinstance(value, os.PathLike)):
        return value
    path, root = os.path.abspath(value), os.path.abspath(folder)
    return os.path.relpath(path, root) if os.path.commonpath([path, root]) == root else path


def config_lines(options: dict[str, Any]) -> Iterator[str]:
    """name = value, as --config and, with other punctuation, the command line take them."""
    for name, value in options.items():
        if isinstance(value, (list, tuple)):
            value = " ".join(str(word) for word in value)
        if value is True:
            value = "true"
        if value is not None and value is not False and value != "":
            yield f"{name} = {value}"


def _is_whole(data: Any, where_it_may_be: bool) -> bool:
    """Whether a batch has no samples: its tensors differ in their first dimension, or it need not be cut."""
    if not isinstance(data, (tuple, list, dict, Tensor, np.ndarray)):
        return False
    tensors = Layout(data).tensors(data)
    return all(tensor.dim() for tensor in tensors) and (where_it_may_be or len({len(tensor) for tensor in tensors}) > 1)


def _inside(loss: Loss) -> Loss:
    """The same, computed by the model."""
    if loss.in_model:
        return loss
    return Loss("output", lambda model, layout, tensors: loss.value(loss.compute(model, layout, tensors), layout, tensors),
                lambda result, layout, tensors: result, parts_given=loss.parts_given)


def _tie(module: nn.Module, network: nn.Module) -> None:
    """Parameters that are one in the network are one in a module with the same names, as they are in the program."""
    first: dict[int, str] = {}
    for name, p in network.named_parameters(remove_duplicate=False):
        one = first.setdefault(id(p), name)
        folder, _, last = name.rpartition(".")
        if one != name:
            module.get_submodule(folder).register_parameter(last, module.get_parameter(one))


def _words_of(error: Exception) -> str:
    """The first lines of PyTorch's, which are the cause, and what to do about the most frequent one."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    cause = " ".join(line for line in lines[:2] if line)
    advice = ""
    if "DataDependent" in type(error).__name__:
        advice = (": a decision in Python, or a number taken out by float() or item(), depends on values; keep it in tensors "
                  "(torch.where), or take detach() for a constant")
    return f"{type(error).__name__}: {cause}{advice}"
