#include "hessian_mpi/network/load_model.hpp"

#include <caffe2/serialize/inline_container.h>
#include <torch/script.h>

#include <algorithm>
#include <array>
#include <fstream>

#include "exported_program.hpp"
#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/network/torch_error.hpp"
#include "torchscript_model.hpp"

namespace hessian_mpi::network {
namespace {

// What the first bytes and the archive's directory tell.
enum class Kind { torchscript, pickle, unknown };

// torch.save of PyTorch before 1.6 wrote a bare pickle: the opcode PROTO and a version.
bool begins_like_pickle(const std::filesystem::path& file) {
  std::array<char, 2> head{};
  std::ifstream(file, std::ios::binary).read(head.data(), head.size());
  return head[0] == '\x80' && head[1] >= 2 && head[1] <= 5;
}

Kind kind_of(const std::filesystem::path& file) {
  if (begins_like_pickle(file)) return Kind::pickle;
  try {
    caffe2::serialize::PyTorchStreamReader archive(file.string());
    if (archive.hasRecord("constants.pkl")) return Kind::torchscript;
    if (archive.hasRecord("data.pkl")) return Kind::pickle;
  } catch (const std::exception&) {
    // Not a zip archive of PyTorch, or a damaged one.
  }
  return Kind::unknown;
}

void require_readable(const std::filesystem::path& file, const char* what) {
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) {
    throw InputError(text("--", what, " '", file.string(), "': no such file"));
  }
  if (!std::filesystem::is_regular_file(file, ignored)) {
    throw InputError(text("the ", what, " file '", file.string(), "' is not a file"));
  }
  if (!std::ifstream(file))
    throw InputError(text("the ", what, " file '", file.string(), "' cannot be read (permissions?)"));
}

std::unique_ptr<Model> load(const std::filesystem::path& file, const char* what, const std::string& how_to_export) {
  require_readable(file, what);
  if (is_exported_program(file)) return load_exported_program(file);
  switch (kind_of(file)) {
    case Kind::torchscript:
      return load_torchscript(file);
    case Kind::pickle:
      throw InputError(text("'", file.string(),
                            "' was written by torch.save and holds a pickled module or its parameters, which need your "
                            "Python code to run. ",
                            how_to_export));
    case Kind::unknown:
      break;
  }
  throw InputError(text("'", file.string(),
                        "' is neither an exported program (torch.export.save) nor a TorchScript module "
                        "(torch.jit.save), or it is damaged"));
}

}  // namespace

std::unique_ptr<Model> load_model(const std::filesystem::path& file) {
  return load(file, "model",
              "Export the network with torch.export.save(torch.export.export(model, (x,)), 'net.pt2'), or with "
              "torch.jit.script(model).save('net.pt')");
}

std::unique_ptr<Model> load_loss(const std::filesystem::path& file) {
  return load(file, "loss",
              "Export the loss with torch.jit.script(loss).save('loss.pt'), or with torch.export.save("
              "torch.export.export(loss, (output, targets)), 'loss.pt2')");
}

}  // namespace hessian_mpi::network
