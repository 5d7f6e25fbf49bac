#pragma once
/// What LibTorch does not look at before it believes a file: the zip archives of torch.save, torch.jit.save and
/// torch.export.save, and the pickles in them. Everything in a file may be damaged or hostile.

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>

namespace caffe2::serialize {
class PyTorchStreamReader;
}

namespace hessian_mpi::network {

/// The name of an archive's member as LibTorch compares it: without regard to case.
std::string archive_name(std::string name);

/// Compares all members of a zip archive with their checksums, and what the directory declares with what the file has:
/// places, sizes, and names that stay inside the archive. Reads the whole file once. Throws InputError saying what is
/// wrong with which member, without the file's name: "is damaged: ...".
void check_archive(const std::filesystem::path& file);

/// Goes through the pickle in a record such as "data.pkl" as LibTorch will, without making anything of it: every
/// tensor's storage has the record `folder`/KEY for the bytes that it declares, nothing is nested without bounds or
/// holds itself, no number asks for more memory than the file accounts for, and no object is made by code outside the
/// tensor library. Throws InputError without the file's name.
void check_pickle(caffe2::serialize::PyTorchStreamReader& archive, const std::string& record,
                  const std::string& folder);

/// True if the bytes that a tensor's sizes and strides reach are in its storage: LibTorch's unpickler takes them as
/// they stand. The tensor is a strided one on the CPU.
bool lies_in_its_storage(const at::Tensor& tensor);

}  // namespace hessian_mpi::network
