"""Hessians of PyTorch networks by the program hessian_mpi, in one call. README.md beside this file has a table of what you
have and what you write.

    H = hessian_mpi.hessian(net, (x, y), loss="cross_entropy", ranks=8)
    H["fc.weight", "conv.weight"][:]                    # a block, read from the disk
"""

from hessian_file import HessianFile, HessianFileError, tensors_of

from .batch import DataError
from .check import ExportError
from .data_file import data
from .export_job import export
from .run_job import JobError, JobInterrupted, hessian, run

__all__ = ["DataError", "ExportError", "HessianFile", "HessianFileError", "JobError", "JobInterrupted", "data", "export",
           "hessian", "run", "tensors_of"]
