"""What a batch is: tensors in any nesting of tuples, lists and dicts, in two parts, inputs and targets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class DataError(ValueError):
    """Data that the program would refuse, found before it is started; the words are the program's."""


def described(tensor: Tensor) -> str:
    """As in "float32 of shape [8, 5]"."""
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {list(tensor.shape)}"


def is_pair(batch: Any) -> bool:
    """Whether a batch is (inputs, targets): every tuple or list of two is."""
    return type(batch) in (tuple, list) and len(batch) == 2


def _is_single(batch: Any) -> bool:
    """Whether it is (inputs,): those without targets."""
    return type(batch) in (tuple, list) and len(batch) == 1


def _parts(batch: Any) -> tuple[Any, Any]:
    inputs, targets = batch if is_pair(batch) else (batch[0] if _is_single(batch) else batch, None)
    return _plain(inputs), _plain(targets)


def _plain(part: Any) -> Any:
    """Mappings of other libraries, such as transformers' BatchEncoding, as dicts."""
    return dict(part) if isinstance(part, Mapping) else part


def _as_tensor(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        leaf = torch.as_tensor(leaf)
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


class Layout:
    """Where the tensors of a batch lie in it, and what they are called: in the data file, and as the model's inputs.

    names: one for each tensor, inputs first, by their keys ("input_ids"), the arguments that they are for ("x"), or places
    ("inputs_1", "targets"). arguments: of forward(), by place, which the first of the parts are given to, one or both.
    paths: of their datasets. Whatever is no tensor is a constant, the same in all batches.
    """

    def __init__(self, batch: Any, arguments: Sequence[str] = (), parts_given: int = 0):
        self.is_pair, self._is_single = is_pair(batch), _is_single(batch)
        self._arguments, self._parts_given = arguments, parts_given
        leaves, self._spec = pytree.tree_flatten_with_path(_parts(batch))
        values = [_as_tensor(value) for _, value in leaves]
        self._places = [k for k, value in enumerate(values) if isinstance(value, Tensor)]
        self._others = {k: value for k, value in enumerate(values) if not isinstance(value, Tensor)}
        self.names: list[str] = []
        self.paths: list[str] = []
        for k in self._places:
            self._add(leaves[k][0], _parts(batch))
        if self.inputs == 0:
            raise DataError(f"the data have no tensor among their inputs: {type(batch).__name__}; expected are tensors, "
                            "tuples, lists and dicts of them, or a pair (inputs, targets) of these")

    def _add(self, path: tuple, parts: tuple) -> None:
        root = "inputs" if path[0].idx == 0 else "targets"
        words = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path[1:]]
        by_name = isinstance(parts[path[0].idx], dict)
        named = words if by_name and (root == "inputs" or self._parts_given == 2) else self._by_place(path, words, parts)
        name = re.sub(r"\W", "_", "_".join(named or [root, *words]))
        if not name.isidentifier():
            name = f"{root}_{name}"
        while name in self.names:
            name += "_"
        self.names.append(name)
        if len(path) == 1:
            self.paths.append(root)
        elif by_name and root == "inputs":
            self.paths.append(f"inputs/{name}")
        else:
            self.paths.append(f"{root}/{sum(other.startswith(root) for other in self.paths)}")

    def _by_place(self, path: tuple, words: list[str], parts: tuple) -> list[str]:
        """The argument of forward() and places in it; none where it is not known."""
        part, (inputs, _) = path[0].idx, parts
        before = part and (len(inputs) if isinstance(inputs, (tuple, list)) else not isinstance(inputs, dict))
        is_one = not isinstance(parts[part], (tuple, list))
        place = before + (0 if is_one else path[1].idx) if is_one or isinstance(path[1], pytree.SequenceKey) else None
        if place is None or part >= self._parts_given or place >= len(self._arguments):
            return []
        return [self._arguments[place], *(words if is_one else words[1:])]

    @property
    def inputs(self) -> int:
        """How many of the tensors are inputs."""
        return sum(path.startswith("inputs") for path in self.paths)

    def tensors(self, batch: Any) -> list[Tensor]:
        """Those of a batch of this layout. Raises DataError where it is another one."""
        leaves, spec = pytree.tree_flatten(_parts(batch))
        values = [_as_tensor(value) for value in leaves]
        places = [k for k, value in enumerate(values) if isinstance(value, Tensor)]
        if spec != self._spec or places != self._places:
            raise DataError("a batch is nested in another way than the one before it: the same tensors are expected in all")
        for k, value in self._others.items():
            if values[k] != value:
                raise DataError(f"{value!r} in one batch is {values[k]!r} in another: what is no tensor has to be the same in "
                                "all; make a tensor of it, whose first dimension is the sample")
        return [values[k] for k in places]

    def parts(self, tensors: list[Tensor]) -> tuple[Any, Any]:
        """Inputs and targets as they were nested, with None for tensors that are not given."""
        leaves = {**dict.fromkeys(self._places), **self._others, **dict(zip(self._places, tensors))}
        return pytree.tree_unflatten([leaves[k] for k in range(len(leaves))], self._spec)

    def batch(self, tensors: list[Tensor]) -> Any:
        """The batch as it was nested."""
        inputs, targets = self.parts(tensors)
        return (inputs, targets) if self.is_pair else (inputs,) if self._is_single else inputs


def call(model: Any, inputs: Any, targets: Any = None) -> Any:
    """model(*inputs) of a tuple or list, model(**inputs) of a dict, model(inputs) of a tensor; targets come last."""
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for part in (inputs, targets):
        if isinstance(part, dict):
            named.update(part)
        elif part is not None:
            positional += part if isinstance(part, (tuple, list)) else [part]
    return model(*positional, **named)
