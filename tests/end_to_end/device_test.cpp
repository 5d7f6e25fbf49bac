// --device cuda: on a GPU where there is one, and on simulated ones (tests/simulated_gpu) everywhere.

#include <gtest/gtest.h>

#include <map>

#include "program.hpp"
#include "reference.hpp"
#include "stored_file.hpp"

namespace end_to_end {
namespace {

const std::string real_gpus = HESSIAN_MPI_PROGRAM;
const std::string simulated_gpus = HESSIAN_MPI_ON_SIMULATED_GPUS;  // empty where LibTorch has GPUs of its own

Words job(const std::string& device, const std::string& name, const Words& more,
          const std::string& model = "model.pt2") {
  const auto folder = models() / name;
  return Words{"--model",   folder / model, "--data", folder / "data.h5", "--output",
               "result.h5", "--threads",    "1",      "--device",         device} +
         options_of(name) + more;
}

Finished run(const std::string& program, int ranks, const Words& words, const Folder& folder,
             const Words& exported = {}) {
  return run_program(ranks, words, folder.path(), exported, program);
}

// Tried rather than asked for: what counts is what the program finds.
bool there_is_a_gpu() {
  const Folder folder;
  const auto errors = run(real_gpus, 1, job("cuda", "question", {"--plan"}), folder).errors;
  return errors.find("sees no GPU") == std::string::npos && errors.find("was built without CUDA") == std::string::npos;
}

TEST(Device, WithoutAGpuIsSaidOnce) {
  if (there_is_a_gpu()) GTEST_SKIP() << "there is a GPU here";
  const Folder folder;
  const auto finished = run(real_gpus, 2, job("cuda", "question", {}), folder);
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
    const auto finished = run(real_gpus, 1, job(device, "mlp_mse", {}), folder);
    ASSERT_EQ(finished.exit_code, 0) << finished.errors;
    EXPECT_EQ(StoredFile(folder / "result.h5").attribute_text("/", "device"), "cpu");
  }
}

class Gpus : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (program().empty()) GTEST_SKIP() << "this LibTorch has GPUs of its own";
    if (program() == real_gpus && !there_is_a_gpu()) GTEST_SKIP() << "no GPU here: --device cuda is not tried on one";
  }
  static const std::string& program() { return GetParam(); }

  // Jobs with the matrices of PyTorch, by the names of the jobs.
  struct Expected {
    std::string network;
    std::string matrix;
  };
  void add(const std::string& job_name, int ranks, const Expected& expected, const std::string& model,
           const Words& more) {
    batch_.add(job_name, ranks, job("cuda", expected.network, Words{"--dtype", "float64"} + more, model));
    expected_[job_name] = expected;
  }
  // Of their files against the references, after jobs that have passed their checks.
  void expect_like_pytorch() {
    batch_.run();
    for (const auto& [name, expected] : expected_) {
      SCOPED_TRACE(name);
      const auto& finished = batch_.finished(name);
      ASSERT_EQ(finished.exit_code, 0) << finished.errors << finished.output;
      EXPECT_NE(finished.output.find("device cuda"), std::string::npos) << finished.output;
      const StoredFile file(batch_.folder(name) / "result.h5");
      EXPECT_EQ(file.attribute_text("/", "device"), "cuda");
      for (const auto* check : {"symmetry_check", "row_check", "gradient_check", "difference_check"}) {
        EXPECT_EQ(file.attribute_text("/", check), "passed") << check;
      }
      const StoredFile reference(models() / expected.network / "reference.h5");
      EXPECT_LE(relative_difference(file.numbers("/hessian"), reference.numbers("/" + expected.matrix)), 1e-9);
    }
  }

 private:
  Batch batch_{program() == real_gpus ? HESSIAN_MPI_JOBS : program()};
  std::map<std::string, Expected> expected_;
};

std::string name_of_gpus(const testing::TestParamInfo<std::string>& info) {
  return info.param == real_gpus ? "real" : "simulated";
}

INSTANTIATE_TEST_SUITE_P(Device, Gpus, testing::Values(real_gpus, simulated_gpus), name_of_gpus);

// On up to three ranks, of which the last then shares a GPU with the first.
TEST_P(Gpus, GiveTheMatricesOfPyTorch) {
  int ranks = 0;
  for (const auto* name :
       {"question", "transformer_traced", "tied", "embedding", "minibatches_weighted", "gru", "batch_norm_train",
        "scripted_loss", "unet", "efficientnet", "by_positions", "by_inputs_alone"}) {
    for (const auto* method : {"rows", "auto"}) {
      ranks = ranks % 3 + 1;
      const auto* model = std::string(method) == "rows" ? "model.pt" : "model.pt2";
      add(std::string(name) + "_" + method, ranks, {name, "hessian"}, model, {"--method", method});
    }
  }
  expect_like_pytorch();
}

TEST_P(Gpus, GiveTheOtherMatricesOfPyTorch) {
  for (const std::string matrix : {"ggn", "fisher"}) {
    for (const auto* method : {"rows", "auto"}) {
      add(matrix + "_" + method, 2, {"transformer", matrix}, "model.pt2", {"--matrix", matrix, "--method", method});
    }
  }
  expect_like_pytorch();
}

// Dropout is on: what is drawn is that of the GPU, the same in every forward on every rank, or the checks would fail.
TEST_P(Gpus, DrawTheSameMasksInEveryForward) {
  const Folder folder;
  const auto words = job("cuda", "encoder_layer", {"--mode", "train", "--dtype", "float64"}, "model.pt");
  const auto finished = run(program(), 2, words, folder);
  ASSERT_EQ(finished.exit_code, 0) << finished.errors << finished.output;
  EXPECT_NE(finished.errors.find("draw the same numbers in every forward"), std::string::npos) << finished.errors;
}

TEST_P(Gpus, GiveTheDiagonal) {
  const Folder folder;
  const auto finished = run(program(), 2, job("cuda", "question", {"--diagonal", "--dtype", "float64"}), folder);
  ASSERT_EQ(finished.exit_code, 0) << finished.errors << finished.output;
  const auto diagonal = StoredFile(folder / "result.h5").numbers("/diagonal");
  const auto hessian = StoredFile(models() / "question" / "reference.h5").numbers("/hessian");
  ASSERT_EQ(diagonal.size() * diagonal.size(), hessian.size());
  for (std::size_t i = 0; i < diagonal.size(); ++i) {
    EXPECT_NEAR(diagonal[i], hessian[i * (diagonal.size() + 1)], 1e-10) << "element " << i;
  }
}

TEST_P(Gpus, AreNotMixedWithTheCpuInOneFile) {
  const Folder folder;
  ASSERT_EQ(run(program(), 1, job("cpu", "question", {}), folder).exit_code, 0);
  const auto finished = run(program(), 1, job("cuda", "question", {"--resume"}), folder);
  EXPECT_EQ(finished.exit_code, 2);
  EXPECT_NE(finished.errors.find("device: 'cpu' in the file, 'cuda' now"), std::string::npos) << finished.errors;
}

TEST(SimulatedGpus, OutOfMemorySayWhatToDoAndStopAllRanks) {
  if (simulated_gpus.empty()) GTEST_SKIP() << "this LibTorch has GPUs of its own";
  for (const auto* memory : {"1000", "20000", "70000", "100000"}) {
    SCOPED_TRACE(memory);
    const Folder folder;
    const auto finished =
        run(simulated_gpus, 2, job("cuda", "question", {}), folder, {std::string("SIMULATED_GPU_MEMORY=") + memory});
    EXPECT_EQ(finished.exit_code, 1) << finished.output;
    EXPECT_NE(finished.errors.find("out of memory on the GPU"), std::string::npos) << finished.errors;
    EXPECT_NE(finished.errors.find("fewer ranks for each GPU"), std::string::npos) << finished.errors;
    EXPECT_EQ(finished.errors.find("frame #"), std::string::npos) << finished.errors;
  }
}

}  // namespace
}  // namespace end_to_end
