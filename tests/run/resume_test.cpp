#include "hessian_mpi/run/resume.hpp"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <fstream>
#include <functional>

#include "expect_error.hpp"
#include "hessian_mpi/file/hessian_file.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "shared_folder.hpp"

namespace hessian_mpi::run {
namespace {

// A job, all of whose parts can be changed.
struct Job {
  Job() {
    index.append("fc.weight", {3, 2});
    index.append("fc.bias", {4});
  }
  file::HessianLayout layout() const { return {index, matrix, Precision::float64, value, gradient, attributes}; }
  void set(const std::string& name, const std::variant<std::string, std::int64_t, double>& to) {
    for (auto& [key, present] : attributes) {
      if (key == name) present = to;
    }
  }

  matrix::ParameterIndex index;
  matrix::MatrixShape matrix{matrix::BlockGrid(10, 80), 10, Precision::float64};
  std::vector<double> value = std::vector<double>(10, 0.5);
  std::vector<double> gradient = std::vector<double>(10, -2);
  file::Attributes attributes{{"model", std::string("net.pt2")},
                              {"model_sha256", std::string("0a1b")},
                              {"data_sha256", std::string()},
                              {"loss", std::string("mse")},
                              {"l2", 0.25},
                              {"loss_options", std::string()},
                              {"reduction", std::string("mean")},
                              {"threads", std::int64_t{3}},
                              {"seed", std::int64_t{0}},
                              {"ranks", std::int64_t{4}}};
};

class Resume : public testing::Test {
 protected:
  std::filesystem::path path() const { return folder_ / "hessian.h5"; }
  void create(const Job& job) const { file::create_hessian_file(path(), job.layout(), false); }
  // A file of the plain job is not one of the job that is changed.
  void expect_refused(const std::function<void(Job&)>& change, std::initializer_list<std::string> parts) const {
    Job job;
    change(job);
    expect_input_error([&] { resume_from(path(), job.layout()); }, parts);
  }

 private:
  const ranks::Communicator world_ = ranks::Communicator::world();
  const SharedFolder folder_{world_};
};

TEST_F(Resume, TakesOverTheMarkedBlocksOfTheSameJob) {
  const Job job;
  create(job);
  file::BlockMarks(path(), job.matrix.grid).write(4, {{17, 0.5, true}});
  const auto resumed = resume_from(path(), job.layout());
  ASSERT_EQ(resumed.records.size(), 10U);
  for (std::size_t b = 0; b < 10; ++b) EXPECT_EQ(resumed.records[b].on_disk, b == 4) << b;
  EXPECT_EQ(resumed.records[4].checksum, 17U);
  EXPECT_FALSE(resumed.complete);
  EXPECT_TRUE(resumed.warnings.empty());
}

TEST_F(Resume, BelievesACompleteFileOnlyWhereAllItsRowsAreThere) {
  const Job job;
  create(job);
  file::finish_hessian_file(path(), {}, true);
  EXPECT_FALSE(resume_from(path(), job.layout()).complete);
  EXPECT_FALSE(file::read_layout(path(), {.complete = false}).complete);
  file::BlockMarks(path(), job.matrix.grid).write(0, std::vector<file::BlockRecord>(10, {17, 0.5, true}));
  file::finish_hessian_file(path(), {}, true);
  EXPECT_TRUE(resume_from(path(), job.layout()).complete);
}

TEST_F(Resume, DoesNotMindNamesAndRanks) {
  create({});
  Job job;
  job.set("model", std::string("elsewhere/net.pt2"));
  job.set("ranks", std::int64_t{64});
  EXPECT_NO_THROW(resume_from(path(), job.layout()));
}

TEST_F(Resume, SaysWhichOptionDiffers) {
  create({});
  expect_refused([](Job& job) { job.set("loss", std::string("l1")); }, {path(), "loss: 'mse' in the file, 'l1' now"});
  expect_refused([](Job& job) { job.set("loss_options", std::string("weight=2")); },
                 {"loss_options: none in the file, 'weight=2' now"});
  expect_refused([](Job& job) { job.set("l2", 0.25000000001); }, {"l2: 0.25 in the file, 0.25000000001 now"});
  expect_refused([](Job& job) { job.set("model_sha256", std::string("0a1c")); }, {"model_sha256", "0a1b", "0a1c"});
  expect_refused([](Job& job) { job.set("data_sha256", std::string("ff")); },
                 {"data_sha256: none in the file, 'ff' now"});
  expect_refused([](Job& job) { job.set("threads", std::int64_t{1}); }, {"threads: 3 in the file, 1 now"});
  expect_refused([](Job& job) { job.set("seed", std::int64_t{8}); }, {"seed: 0 in the file, 8 now"});
  expect_refused(
      [](Job& job) {
        job.set("loss", std::string("l1"));
        job.set("reduction", std::string("sum"));
      },
      {"loss: ", "; reduction: 'mean' in the file, 'sum' now"});
  expect_refused([](Job& job) { job.attributes.emplace_back("mode", std::string("eval")); },
                 {"mode: not in the file, 'eval' now"});
}

TEST_F(Resume, SaysHowTheMatrixDiffers) {
  create({});
  expect_refused([](Job& job) { job.matrix.storage = Precision::float32; },
                 {"storage: float64 in the file, float32 now"});
  expect_refused(
      [](Job& job) {
        job.matrix.grid = matrix::BlockGrid(10, 80, {2, 10});
      },
      {"rows: 0:10 in the file, 2:10 now"});
  expect_refused(
      [](Job& job) {
        job.matrix.grid = matrix::BlockGrid(10, 80, {0, 9});
      },
      {"rows: 0:10 in the file, 0:9 now"});
}

TEST_F(Resume, SaysWhichParameterDiffers) {
  create({});
  const auto other = [](const char* name, const std::vector<std::int64_t>& shape) {
    return [=](Job& job) {
      job.index = {};
      job.index.append("fc.weight", {3, 2});
      job.index.append(name, shape);
    };
  };
  expect_refused(other("fc.scale", {4}), {"parameter 1: fc.bias [4] in the file, fc.scale [4] now"});
  expect_refused(other("fc.bias", {2, 2}), {"parameter 1: fc.bias [4] in the file, fc.bias [2, 2] now"});
  expect_refused([](Job& job) { job.index.append("more", {1}); }, {"parameter 2: nothing in the file, more [1] now"});
}

TEST_F(Resume, SaysThatThePointDiffers) {
  create({});
  expect_refused([](Job& job) { job.value[9] += 1e-15; }, {"values of the parameters"});
  expect_refused([](Job& job) { job.gradient[3] += 1e-6; }, {"gradient"});
  Job job;
  job.gradient[3] += 1e-13;
  EXPECT_EQ(resume_from(path(), job.layout()).warnings.size(), 1U);
}

TEST_F(Resume, RefusesWhatIsNoFileOfItsKind) {
  std::ofstream(path()) << "precious";
  expect_input_error([&] { resume_from(path(), Job().layout()); }, {path(), "damaged, or not a file of hessian_mpi"});
  expect_input_error([&] { threads_of_file(path()); }, {path()});
  std::filesystem::remove(path());
  hdf5::File::create(path()).close();
  expect_input_error([&] { resume_from(path(), Job().layout()); }, {path(), "not a file of hessian_mpi"});
}

TEST_F(Resume, FollowsNoLinkIntoAnotherFile) {
  create({});
  const auto other = path().parent_path() / "other.h5";
  std::filesystem::copy_file(path(), other);
  const hid_t file = H5Fopen(path().c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  H5Ldelete(file, "/gradient", H5P_DEFAULT);
  H5Lcreate_external(other.c_str(), "/gradient", file, "/gradient", H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(file);
  expect_input_error([&] { resume_from(path(), Job().layout()); }, {path(), "damaged", "/gradient"});
}

TEST_F(Resume, RefusesATruncatedFile) {
  create({});
  std::filesystem::resize_file(path(), std::filesystem::file_size(path()) / 2);
  expect_input_error([&] { resume_from(path(), Job().layout()); }, {path(), "damaged"});
}

TEST_F(Resume, KnowsTheThreadsOfTheFile) {
  EXPECT_EQ(threads_of_file(path()), std::nullopt);
  create({});
  EXPECT_EQ(threads_of_file(path()), 3);
}

}  // namespace
}  // namespace hessian_mpi::run
