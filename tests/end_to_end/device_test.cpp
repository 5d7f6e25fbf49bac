// --device, with a GPU where there is one.

#include <gtest/gtest.h>

#include "program.hpp"
#include "reference.hpp"
#include "stored_file.hpp"

namespace end_to_end {
namespace {

Finished run_on(const std::string& device, int ranks, const std::string& name, const Words& more,
                const Folder& folder) {
  const auto model = models() / name;
  return run_program(ranks,
                     Words{"--model", model / "model.pt2", "--data", model / "data.h5", "--output", "result.h5",
                           "--threads", "1", "--device", device} +
                         options_of(name) + more,
                     folder.path());
}

// Tried rather than asked for: what counts is what the program finds.
bool there_is_a_gpu() {
  const Folder folder;
  const auto errors = run_on("cuda", 1, "question", {"--plan"}, folder).errors;
  return errors.find("sees no GPU") == std::string::npos && errors.find("was built without CUDA") == std::string::npos;
}

TEST(Device, WithoutAGpuIsSaidOnce) {
  if (there_is_a_gpu()) GTEST_SKIP() << "there is a GPU here";
  const Folder folder;
  const auto finished = run_on("cuda", 2, "question", {}, folder);
  EXPECT_EQ(finished.exit_code, 2);
  EXPECT_TRUE(finished.errors.starts_with("hessian_mpi: error: ")) << finished.errors;
  EXPECT_EQ(finished.errors.find("error: "), finished.errors.rfind("error: ")) << finished.errors;
  EXPECT_NE(finished.errors.find("--device cuda"), std::string::npos) << finished.errors;
  EXPECT_NE(finished.errors.find("--device cpu"), std::string::npos) << finished.errors;
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Device, CpuIsInTheFileAndAutoIsTheSame) {
  for (const auto* device : {"cpu", "auto"}) {
    const Folder folder;
    const auto finished = run_on(device, 1, "mlp_mse", {}, folder);
    ASSERT_EQ(finished.exit_code, 0) << finished.errors;
    EXPECT_EQ(StoredFile(folder / "result.h5").attribute_text("/", "device"), "cpu");
  }
}

// Not on a machine without a GPU: the same matrices as PyTorch's, by both methods, in batches, on two ranks.
TEST(Device, CudaGivesTheMatricesOfPyTorch) {
  if (!there_is_a_gpu()) GTEST_SKIP() << "no GPU here: --device cuda is not tried";
  for (const auto* name : {"question", "mlp_mse", "transformer", "tied", "embedding", "minibatches_weighted"}) {
    for (const auto* method : {"rows", "layers"}) {
      SCOPED_TRACE(std::string(name) + ' ' + method);
      const Folder folder;
      const auto finished = run_on("cuda", 2, name, {"--dtype", "float64", "--method", method}, folder);
      ASSERT_EQ(finished.exit_code, 0) << finished.errors << finished.output;
      const StoredFile file(folder / "result.h5");
      EXPECT_EQ(file.attribute_text("/", "device"), "cuda");
      EXPECT_EQ(file.attribute_text("/", "difference_check"), "passed");
      expect_like_reference(file, StoredFile(models() / name / "reference.h5"), 1e-10);
    }
  }
}

}  // namespace
}  // namespace end_to_end
