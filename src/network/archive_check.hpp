#pragma once
/// What LibTorch does not look at before it believes a file: the zip archives of torch.save, torch.jit.save and
/// torch.export.save, and the pickles in them. Everything in a file may be damaged or hostile.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace caffe2::serialize {
class PyTorchStreamReader;
}

namespace hessian_mpi::network {

/// Throws what is thrown of a file whose bytes cannot be what was written, without its name: InputError "is damaged:
/// ...".
[[noreturn]] void damaged(const std::string& how);

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

/// What a pickle says, without anything being made of it.
struct PickledObject {
  enum class Kind { other, integer, text, global, tuple, list, dict, object, storage };
  Kind kind = Kind::other;
  std::int64_t number = 0;           ///< an integer
  std::string text;                  ///< a text; of a global "module name"
  std::vector<std::uint32_t> parts;  ///< of a container: its elements by their numbers, keys and values in turn; of an
                                     ///< object: what makes it, and of what; of a storage: what names it
};

struct PickledObjects {
  std::vector<PickledObject> all;
  std::uint32_t whole = 0;  ///< the number of that which holds the others
};

/// The same for a pickle that is not for LibTorch, but to be looked into: objects of any kind may stand in it, of which
/// nothing is made, and which may hold themselves. Storages of tensors have the bytes that they declare.
PickledObjects pickled_objects(caffe2::serialize::PyTorchStreamReader& archive, const std::string& record,
                               const std::string& folder);

/// The bytes of an element of "torch FloatStorage", by its name; 0 where that is no such storage.
std::int64_t bytes_of_element(const std::string& storage);

/// True if the bytes that a tensor's sizes and strides reach are in its storage: LibTorch's unpickler takes them as
/// they stand. The tensor is a strided one on the CPU.
bool lies_in_its_storage(const at::Tensor& tensor);

}  // namespace hessian_mpi::network
