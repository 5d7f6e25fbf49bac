#include "hessian_mpi/file/hessian_file.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <numeric>
#include <optional>
#include <regex>
#include <set>

#include "content_of.hpp"
#include "expect_error.hpp"
#include "hdf5_attribute.hpp"
#include "hessian_mpi/file/hessian_rows.hpp"
#include "shared_folder.hpp"

namespace hessian_mpi::file {
namespace {

using Integers = std::vector<std::int64_t>;
using Strings = std::vector<std::string>;

double number_at(std::int64_t i, std::int64_t j) {
  return std::cos(static_cast<double>(1000 * i + j));
}

matrix::MatrixShape shape_of(std::int64_t n, Precision storage, const std::optional<Rows>& part = {}) {
  return {matrix::BlockGrid(n, n * static_cast<std::int64_t>(bytes_of(storage)), part.value_or(Rows{0, n})), n,
          storage};
}

// What a file is to hold, owned. Value k of theta is k + 0.1, of the gradient -k.
struct Job {
  matrix::ParameterIndex index;
  Precision dtype = Precision::float64;
  Precision storage = Precision::float32;
  std::optional<Rows> part;
  Attributes attributes = {{"loss", std::string("mse")}, {"ranks", std::int64_t{4}}, {"loss_value", 0.25}};

  void create(const std::filesystem::path& path, bool replace = false) const {
    const auto n = static_cast<std::size_t>(index.size());
    std::vector<double> value(n);
    std::vector<double> gradient(n);
    for (std::size_t k = 0; k < n; ++k) value[k] = static_cast<double>(k) + 0.1;
    for (std::size_t k = 0; k < n; ++k) gradient[k] = -static_cast<double>(k);
    create_hessian_file(path, {index, matrix(), dtype, value, gradient, attributes}, replace);
  }
  matrix::MatrixShape matrix() const { return shape_of(index.size(), storage, part); }
};

// Two tensors, n parameters in all.
Job job_of_size(std::int64_t n) {
  Job job;
  job.index.append("fc.weight", {n - 3, 1});
  job.index.append("fc.bias", {3});
  return job;
}

// Where a dataset's bytes begin, from the HDF5 library itself.
std::uint64_t offset_of(const std::filesystem::path& path, const char* name) {
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
  const auto offset = H5Dget_offset(dataset);
  H5Dclose(dataset);
  H5Fclose(file);
  return offset;
}

// Expects the file's bytes to be those of the matrix number_at, row-major.
template <class Number>
void expect_bytes_of_matrix(const std::filesystem::path& path, std::int64_t n) {
  const auto bytes = content_of(path);
  const auto offset = offset_of(path, "/hessian");
  std::vector<Number> numbers(static_cast<std::size_t>(n * n));
  ASSERT_LE(offset + numbers.size() * sizeof(Number), bytes.size());
  std::memcpy(numbers.data(), bytes.data() + offset, numbers.size() * sizeof(Number));
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      ASSERT_EQ(numbers[static_cast<std::size_t>(i * n + j)], static_cast<Number>(number_at(i, j))) << i << ", " << j;
    }
  }
}

template <class Number>
std::vector<Number> rows_of_matrix(const Rows& rows, std::int64_t n) {
  std::vector<Number> numbers;
  for (std::int64_t i = rows.begin; i < rows.end; ++i) {
    for (std::int64_t j = 0; j < n; ++j) numbers.push_back(static_cast<Number>(number_at(i, j)));
  }
  return numbers;
}

template <class Number>
std::vector<Number> dataset(const std::filesystem::path& path, const std::string& name, hdf5::Type type) {
  const auto file = hdf5::File::open_to_read(path);
  const auto shape = file.shape(name);
  std::vector<Number> values(std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>()));
  file.read(name, type, values.data());
  return values;
}

Integers integers(const std::filesystem::path& path, const std::string& name) {
  return dataset<std::int64_t>(path, name, hdf5::Type::int64);
}

std::vector<double> numbers(const std::filesystem::path& path, const std::string& name) {
  return dataset<double>(path, name, hdf5::Type::float64);
}

// The strings of a dataset, each of fixed length in the file and padded with zeros.
Strings strings(const std::filesystem::path& path, const char* name) {
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const hid_t opened = H5Dopen2(file, name, H5P_DEFAULT);
  const hid_t type = H5Dget_type(opened);
  const hid_t space = H5Dget_space(opened);
  const std::size_t length = H5Tget_size(type);
  const auto count = static_cast<std::size_t>(H5Sget_simple_extent_npoints(space));
  std::string characters(length * count, '?');
  EXPECT_GE(H5Dread(opened, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, characters.data()), 0);
  Strings values;
  for (std::size_t i = 0; i < count; ++i) values.emplace_back(characters.substr(i * length, length).c_str());
  H5Sclose(space);
  H5Tclose(type);
  H5Dclose(opened);
  H5Fclose(file);
  return values;
}

class HessianFile : public testing::Test {
 protected:
  bool is_root() const { return world_.is_root(); }
  const ranks::Communicator& world() const { return world_; }
  std::filesystem::path path(const std::string& name = "hessian.h5") const { return folder_ / name; }
  std::set<std::string> names_in_folder() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path(""))) names.insert(entry.path().filename());
    return names;
  }
  // Collective.
  void create_on_root(const Job& job) const {
    world_.on_root([&] { job.create(path()); });
  }

 private:
  const ranks::Communicator world_ = ranks::Communicator::world();
  const SharedFolder folder_{world_};
};

// Round by round, ranks write slices of unequal height in an order that is not theirs: the last rank the first rows.
// In the second round all ranks but one have none.
template <class Number>
void write_unevenly(HessianWriter& writer, std::int64_t n, const ranks::Communicator& world) {
  const std::int64_t half = n / 2;
  const std::int64_t place = world.size() - 1 - world.rank();
  const std::int64_t squared = std::int64_t{world.size()} * world.size();
  const Rows own{half * place * place / squared, half * (place + 1) * (place + 1) / squared};
  writer.write(own, rows_of_matrix<Number>(own, n).data());
  const Rows rest = place == 0 ? Rows{half, n} : Rows{};
  writer.write(rest, rows_of_matrix<Number>(rest, n).data());
}

template <class Number>
void expect_written_and_read_back(const std::filesystem::path& path, std::int64_t n, Precision storage,
                                  const ranks::Communicator& world) {
  HessianWriter writer(path, shape_of(n, storage), world);
  write_unevenly<Number>(writer, n, world);
  writer.close();
  {
    const HessianReader reader(path);
    const auto tile = reader.tile({2, 5, 4, 3});
    for (std::size_t k = 0; k < 12; ++k) {
      const auto expected = static_cast<Number>(number_at(2 + static_cast<std::int64_t>(k) / 3, 5 + k % 3));
      EXPECT_EQ(tile[k], static_cast<double>(expected)) << k;
    }
    const Rows some{n - 7, n - 2};
    const auto expected = rows_of_matrix<Number>(some, n);
    const auto bytes = reader.bytes(some, shape_of(n, storage));
    ASSERT_EQ(bytes.size(), expected.size() * sizeof(Number));
    EXPECT_EQ(std::memcmp(bytes.data(), expected.data(), bytes.size()), 0);
  }
  if (world.is_root()) expect_bytes_of_matrix<Number>(path, n);
  world.wait_for_all();
}

TEST_F(HessianFile, HoldsTheRowsOfAllRanksInFloat32) {
  create_on_root(job_of_size(101));
  expect_written_and_read_back<float>(path(), 101, Precision::float32, world());
}

TEST_F(HessianFile, HoldsTheRowsOfAllRanksInFloat64) {
  auto job = job_of_size(101);
  job.storage = Precision::float64;
  create_on_root(job);
  expect_written_and_read_back<double>(path(), 101, Precision::float64, world());
}

TEST_F(HessianFile, HoldsRowsOfMoreThanAMebibyte) {
  create_on_root(job_of_size(1500));
  expect_written_and_read_back<float>(path(), 1500, Precision::float32, world());
}

TEST_F(HessianFile, HoldsOneRow) {
  Job job;
  job.index.append("w", {1});
  create_on_root(job);
  HessianWriter writer(path(), shape_of(1, Precision::float32), world());
  const float number = 42;
  writer.write(is_root() ? Rows{0, 1} : Rows{}, is_root() ? &number : nullptr);
  writer.close();
  EXPECT_EQ(HessianReader(path()).tile({0, 0, 1, 1}), std::vector<double>{42});
}

TEST_F(HessianFile, TakesRoundsInWhichNoRankHasRows) {
  create_on_root(job_of_size(10));
  HessianWriter writer(path(), shape_of(10, Precision::float32), world());
  writer.write({}, nullptr);
  writer.close();
  EXPECT_EQ(HessianReader(path()).bytes({}, shape_of(10, Precision::float32)).size(), 0U);
}

TEST_F(HessianFile, ThatIsMissingIsNamedOnAllRanksWhichCannotFinaliseMpi) {
  EXPECT_TRUE(world().can_be_finalised());
  try {
    const HessianWriter writer(path("missing.h5"), shape_of(10, Precision::float32), world());
    ADD_FAILURE() << "a missing file was opened";
  } catch (const ranks::AgreedError& error) {
    EXPECT_FALSE(world().can_be_finalised());
    EXPECT_EQ(error.code(), ExitCode::failed);
    EXPECT_NE(std::string(error.what()).find(path("missing.h5").string()), std::string::npos) << error.what();
  }
}

// No rank may write beyond a mebibyte: as on a full disk, those that write for the others see it, on other nodes maybe.
TEST_F(HessianFile, ThatCannotGrowIsAnErrorOnAllRanks) {
  constexpr std::int64_t n = 1500;
  create_on_root(job_of_size(n));
  HessianWriter writer(path(), shape_of(n, Precision::float32), world());
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{1 << 20, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const Rows own{n * world().rank() / world().size(), n * (world().rank() + 1) / world().size()};
  EXPECT_THROW(writer.write(own, rows_of_matrix<float>(own, n).data()), ranks::AgreedError);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(world().sum(1), world().size()) << "ranks are out of step";
}

// From here on: what one rank does alone.

TEST_F(HessianFile, DescribesItsParameters) {
  if (!is_root()) return;
  Job job;
  job.index.append("conv1.weight", {2, 1, 3, 3});
  job.index.append("scale", {});
  job.index.append("größe", {5});
  job.create(path());
  const auto of_matrix = [&](const char* name) { return attribute_of(path(), "/hessian", name); };
  EXPECT_EQ(of_matrix("parameter_names").strings, (Strings{"conv1.weight", "scale", "größe"}));
  EXPECT_EQ(of_matrix("parameter_shapes").strings, (Strings{"[2, 1, 3, 3]", "[]", "[5]"}));
  EXPECT_EQ(of_matrix("parameter_offsets").integers, (Integers{0, 18, 19}));
  EXPECT_EQ(of_matrix("parameter_sizes").integers, (Integers{18, 1, 5}));
  EXPECT_EQ(strings(path(), "/parameters/name"), (Strings{"conv1.weight", "scale", "größe"}));
  EXPECT_EQ(integers(path(), "/parameters/offset"), (Integers{0, 18, 19}));
  EXPECT_EQ(integers(path(), "/parameters/size"), (Integers{18, 1, 5}));
  EXPECT_EQ(integers(path(), "/parameters/ndim"), (Integers{4, 0, 1}));
  EXPECT_EQ(integers(path(), "/parameters/shape"), (Integers{2, 1, 3, 3, 0, 0, 0, 0, 5, 0, 0, 0}));
  EXPECT_EQ(hdf5::File::open_to_read(path()).shape("/parameters/shape"), (std::vector<std::uint64_t>{3, 4}));
}

TEST_F(HessianFile, DescribesANetworkOfScalars) {
  if (!is_root()) return;
  Job job;
  job.index.append("a", {});
  job.index.append("b", {});
  job.create(path());
  EXPECT_EQ(attribute_of(path(), "/hessian", "parameter_shapes").strings, (Strings{"[]", "[]"}));
  EXPECT_EQ(integers(path(), "/parameters/ndim"), (Integers{0, 0}));
  EXPECT_EQ(integers(path(), "/parameters/size"), (Integers{1, 1}));
  EXPECT_EQ(hdf5::File::open_to_read(path()).shape("/parameters/shape"), (std::vector<std::uint64_t>{2, 1}));
}

// Names take 16 bytes each in an attribute, and attributes beyond 64 KiB are stored in another way.
TEST_F(HessianFile, DescribesMoreThan4095Parameters) {
  if (!is_root()) return;
  Job job;
  Strings names;
  Integers offsets;
  for (std::int64_t p = 0; p < 5000; ++p) {
    names.push_back(text("encoder.layers.", p, ".self_attention.scale"));
    offsets.push_back(p);
    job.index.append(names.back(), {1});
  }
  job.create(path());
  EXPECT_EQ(attribute_of(path(), "/hessian", "parameter_names").strings, names);
  EXPECT_EQ(attribute_of(path(), "/hessian", "parameter_offsets").integers, offsets);
  EXPECT_EQ(attribute_of(path(), "/hessian", "parameter_sizes").integers, Integers(5000, 1));
  EXPECT_EQ(attribute_of(path(), "/hessian", "parameter_shapes").strings, Strings(5000, "[1]"));
  EXPECT_EQ(strings(path(), "/parameters/name"), names);
  EXPECT_EQ(integers(path(), "/parameters/offset"), offsets);
}

TEST_F(HessianFile, HoldsValueAndGradientInTheDtype) {
  if (!is_root()) return;
  auto job = job_of_size(10);
  job.create(path("double.h5"));
  job.dtype = Precision::float32;
  job.storage = Precision::float64;
  job.create(path("float.h5"));
  for (const std::size_t k : {0U, 9U}) {
    const auto place = static_cast<double>(k);
    EXPECT_EQ(numbers(path("double.h5"), "/parameters/value")[k], place + 0.1);
    EXPECT_EQ(numbers(path("double.h5"), "/gradient")[k], -place);
    EXPECT_EQ(numbers(path("float.h5"), "/parameters/value")[k], static_cast<double>(static_cast<float>(place + 0.1)));
  }
  const auto with_floats = hdf5::File::open_to_read(path("float.h5"));
  EXPECT_EQ(with_floats.type("/parameters/value"), hdf5::Type::float32);
  EXPECT_EQ(with_floats.type("/gradient"), hdf5::Type::float32);
  EXPECT_EQ(with_floats.type("/hessian"), hdf5::Type::float64);
  EXPECT_EQ(hdf5::File::open_to_read(path("double.h5")).type("/hessian"), hdf5::Type::float32);
  EXPECT_EQ(with_floats.shape("/hessian"), (std::vector<std::uint64_t>{10, 10}));
}

TEST_F(HessianFile, ListsItsBlocksWithoutChecksumsAtFirst) {
  if (!is_root()) return;
  job_of_size(2501).create(path());  // blocks of 2 rows, the last of 1
  Integers begin;
  Integers end;
  for (std::int64_t row = 0; row < 2501; row += 2) {
    begin.push_back(row);
    end.push_back(std::min<std::int64_t>(row + 2, 2501));
  }
  EXPECT_EQ(integers(path(), "/blocks/begin"), begin);
  EXPECT_EQ(integers(path(), "/blocks/end"), end);
  EXPECT_EQ(dataset<std::uint64_t>(path(), "/blocks/checksum", hdf5::Type::uint64),
            std::vector<std::uint64_t>(begin.size(), 0));
}

TEST_F(HessianFile, HoldsTheAttributesOfTheJob) {
  if (!is_root()) return;
  job_of_size(10).create(path());
  const auto of_root = [&](const char* name) { return attribute_of(path(), "/", name); };
  EXPECT_EQ(of_root("format").strings, Strings{"hessian_mpi"});
  EXPECT_EQ(of_root("format_version").integers, Integers{1});
  EXPECT_EQ(of_root("loss").strings, Strings{"mse"});
  EXPECT_EQ(of_root("ranks").integers, Integers{4});
  EXPECT_EQ(of_root("loss_value").numbers, std::vector<double>{0.25});
}

TEST_F(HessianFile, IsCompleteOnlyWhenFinished) {
  if (!is_root()) return;
  job_of_size(3).create(path());
  const auto complete = [&] { return attribute_of(path(), "/", "complete").integers; };
  EXPECT_EQ(complete(), Integers{0});
  finish_hessian_file(path(), {}, false);
  EXPECT_EQ(complete(), Integers{0});
  finish_hessian_file(path(), {}, true);
  EXPECT_EQ(complete(), Integers{1});
  reopen_hessian_file(path());
  EXPECT_EQ(complete(), Integers{0});
}

TEST_F(HessianFile, IsNoResultWhereItSaysThatItIsCompleteAndLacksRows) {
  if (!is_root()) return;
  const auto job = job_of_size(3);
  job.create(path());
  finish_hessian_file(path(), {}, true);
  expect_input_error([&] { read_layout(path()); }, {path().string(), "is damaged", "complete", "rows 0 to"});
  EXPECT_TRUE(read_layout(path(), {.complete = false}).complete);
  std::vector<BlockRecord> records(static_cast<std::size_t>(job.matrix().grid.count()), {1, 1, true});
  BlockMarks(path(), job.matrix().grid).write(0, records);
  EXPECT_TRUE(read_layout(path()).complete);
}

TEST_F(HessianFile, HasAnIdOfItsOwnThatItKeeps) {
  if (!is_root()) return;
  EXPECT_EQ(file_id(path()), "");
  job_of_size(3).create(path());
  const auto first = file_id(path());
  EXPECT_TRUE(std::regex_match(first, std::regex("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"))) << first;
  finish_hessian_file(path(), {}, true);
  reopen_hessian_file(path());
  EXPECT_EQ(file_id(path()), first);
  EXPECT_EQ(read_layout(path(), {.complete = false}).file_id, first);
  job_of_size(3).create(path(), true);
  const auto second = file_id(path());
  EXPECT_NE(second, first);
  // A file of earlier versions has none until it is gone on with.
  const hid_t file = H5Fopen(path().c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  H5Adelete(file, "file_id");
  H5Fclose(file);
  EXPECT_EQ(file_id(path()), "");
  reopen_hessian_file(path());
  EXPECT_EQ(file_id(path()).size(), second.size());
}

TEST_F(HessianFile, KeepsTheFiguresOfItsEnd) {
  if (!is_root()) return;
  job_of_size(3).create(path());
  finish_hessian_file(path(), {{"row_error", 1e-7}, {"loss", std::string("a longer name")}}, true);
  EXPECT_EQ(attribute_of(path(), "/", "row_error").numbers, std::vector<double>{1e-7});
  EXPECT_EQ(attribute_of(path(), "/", "loss").strings, Strings{"a longer name"});
}

// --- marks

const BlockRecord first_record{0xfedcba9876543210, 0.25, true};
const BlockRecord second_record{7, 0, true};

bool same(const BlockRecord& a, const BlockRecord& b) {
  return a.on_disk == b.on_disk && (!a.on_disk || (a.checksum == b.checksum && a.largest == b.largest));
}

TEST_F(HessianFile, KnowsTheBlocksThatWereMarked) {
  if (!is_root()) return;
  const auto job = job_of_size(2501);
  const auto grid = job.matrix().grid;
  job.create(path());
  for (const auto& record : read_block_records(path(), grid)) EXPECT_FALSE(record.on_disk);
  {
    BlockMarks marks(path(), grid);
    marks.write(17, {first_record, second_record});
    marks.write(1250, {second_record});  // the last one, of one row
    marks.sync();
  }
  const auto records = read_block_records(path(), grid);
  ASSERT_EQ(records.size(), 1251U);
  for (std::size_t b = 0; b < records.size(); ++b) {
    const auto expected = b == 17 ? first_record : b == 18 || b == 1250 ? second_record : BlockRecord{};
    EXPECT_TRUE(same(records[b], expected)) << b;
  }
  EXPECT_EQ(dataset<std::uint64_t>(path(), "/blocks/checksum", hdf5::Type::uint64)[17], first_record.checksum);
  EXPECT_EQ(numbers(path(), "/blocks/largest")[17], first_record.largest);
}

TEST_F(HessianFile, BelievesNoMarkThatIsNotOfItsBlock) {
  if (!is_root()) return;
  const auto job = job_of_size(2501);
  const auto grid = job.matrix().grid;
  job.create(path());
  BlockMarks marks(path(), grid);
  marks.write(3, {first_record, first_record, first_record, first_record});
  marks.write(5, {BlockRecord{}});  // taken back
  marks.sync();
  const auto at = [&](const char* name, std::int64_t b) {
    return offset_of(path(), name) + 8 * static_cast<std::uint64_t>(b);
  };
  std::fstream file(path(), std::ios::in | std::ios::out | std::ios::binary);
  std::array<char, 8> mark{};
  file.seekg(static_cast<std::streamoff>(at("/blocks/mark", 3)));
  file.read(mark.data(), 8);
  file.seekp(static_cast<std::streamoff>(at("/blocks/mark", 9)));  // that of block 3, on block 9
  file.write(mark.data(), 8);
  file.seekp(static_cast<std::streamoff>(at("/blocks/checksum", 4)));  // a bit of a checksum, flipped
  file.put(0x11);
  file.close();
  const auto records = read_block_records(path(), grid);
  EXPECT_TRUE(records[3].on_disk && records[6].on_disk);
  for (const std::size_t b : {4U, 5U, 9U}) EXPECT_FALSE(records[b].on_disk) << b;
}

TEST_F(HessianFile, TellsBlocksOfAnotherGrid) {
  if (!is_root()) return;
  job_of_size(2501).create(path());
  expect_input_error([&] { read_block_records(path(), job_of_size(2500).matrix().grid); }, {path().string(), "blocks"});
  expect_input_error([&] { read_block_records(path(), job_of_size(2502).matrix().grid); }, {path().string(), "blocks"});
}

// What a kill could tear must not change while rows are written and marked: all but the rows and three arrays.
TEST_F(HessianFile, IsNotChangedButInItsRowsAndMarks) {
  const auto job = job_of_size(101);
  create_on_root(job);
  const auto before = is_root() ? content_of(path()) : "";
  {
    HessianWriter writer(path(), job.matrix(), world());
    write_unevenly<float>(writer, 101, world());
    writer.sync();
    if (is_root()) BlockMarks(path(), job.matrix().grid).write(0, std::vector<BlockRecord>(101, first_record));
    writer.close();
  }
  if (!is_root()) return;
  auto after = content_of(path());
  ASSERT_GE(after.size(), before.size());
  after.resize(before.size());
  const auto put_back = [&](const char* name, std::size_t bytes) {
    const auto offset = offset_of(path(), name);
    ASSERT_NE(after.compare(offset, bytes, before, offset, bytes), 0) << name;
    after.replace(offset, bytes, before, offset, bytes);
  };
  put_back("/hessian", std::size_t{101} * 101 * 4);
  for (const auto* name : {"/blocks/checksum", "/blocks/largest", "/blocks/mark"}) put_back(name, 101 * 8);
  EXPECT_TRUE(after == before);
}

TEST_F(HessianFile, HoldsAPartOfTheRows) {
  auto job = job_of_size(101);
  job.part = Rows{40, 90};
  create_on_root(job);
  const Rows own{40 + 50 * world().rank() / world().size(), 40 + 50 * (world().rank() + 1) / world().size()};
  HessianWriter writer(path(), job.matrix(), world());
  writer.write(own, rows_of_matrix<float>(own, 101).data());
  EXPECT_THROW(writer.write({39, 41}, rows_of_matrix<float>({39, 41}, 101).data()), ranks::AgreedError);
  writer.close();
  const auto tile = HessianReader(path()).tile({40, 7, 50, 1});
  for (std::size_t k = 0; k < tile.size(); ++k) {
    EXPECT_EQ(tile[k], static_cast<double>(static_cast<float>(number_at(40 + static_cast<std::int64_t>(k), 7)))) << k;
  }
  if (!is_root()) return;
  EXPECT_EQ(hdf5::File::open_to_read(path()).shape("/hessian"), (std::vector<std::uint64_t>{50, 101}));
  EXPECT_EQ(attribute_of(path(), "/", "row_begin").integers, Integers{40});
  EXPECT_EQ(attribute_of(path(), "/", "row_end").integers, Integers{90});
  EXPECT_EQ(integers(path(), "/blocks/begin").front(), 40);
  EXPECT_EQ(integers(path(), "/blocks/end").back(), 90);
  EXPECT_EQ(integers(path(), "/parameters/offset"), (Integers{0, 98}));
}

TEST_F(HessianFile, HasItsSpaceOnTheDiskFromTheBeginning) {
  if (!is_root()) return;
  std::ofstream(path("probe")) << '.';
  const int probe = open(path("probe").c_str(), O_RDWR);
  const bool can_take_space = fallocate(probe, 0, 0, 4096) == 0;
  close(probe);
  if (!can_take_space) GTEST_SKIP() << "a file system that cannot take space in advance";
  job_of_size(2000).create(path());
  struct stat status {};
  ASSERT_EQ(stat(path().c_str(), &status), 0);
  EXPECT_GE(static_cast<std::uint64_t>(status.st_blocks) * 512, 2000U * 2000U * 4U);
}

TEST_F(HessianFile, ComesAloneWithoutTemporaryFiles) {
  if (!is_root()) return;
  job_of_size(10).create(path());
  EXPECT_EQ(names_in_folder(), std::set<std::string>{"hessian.h5"});
}

TEST_F(HessianFile, LeavesNothingBehindWhereItsCreationFails) {
  if (!is_root()) return;
  auto job = job_of_size(10);
  job.attributes.emplace_back("", std::string("an attribute without a name, which HDF5 refuses"));
  EXPECT_THROW(job.create(path()), Error);
  EXPECT_TRUE(names_in_folder().empty());
}

TEST_F(HessianFile, LeavesAnExistingFileWhereItsReplacementFails) {
  if (!is_root()) return;
  std::ofstream(path()) << "precious";
  auto job = job_of_size(10);
  job.attributes.emplace_back("", std::string("an attribute without a name, which HDF5 refuses"));
  EXPECT_THROW(job.create(path(), true), Error);
  EXPECT_EQ(content_of(path()), "precious");
  EXPECT_EQ(names_in_folder(), std::set<std::string>{"hessian.h5"});
}

TEST_F(HessianFile, NeverReplacesAnExistingFileUnasked) {
  if (!is_root()) return;
  std::ofstream(path()) << "precious";
  expect_input_error([&] { job_of_size(10).create(path()); }, {path().string(), "exists", "--overwrite"});
  EXPECT_EQ(content_of(path()), "precious");
  EXPECT_EQ(names_in_folder(), std::set<std::string>{"hessian.h5"});
}

TEST_F(HessianFile, IsMadeWhereALinkLeads) {
  if (!is_root()) return;
  std::filesystem::create_symlink("target.h5", path());
  job_of_size(10).create(path());
  EXPECT_EQ(std::filesystem::read_symlink(path()), "target.h5");
  EXPECT_EQ(names_in_folder(), (std::set<std::string>{"hessian.h5", "target.h5"}));
  expect_input_error([&] { job_of_size(10).create(path()); }, {path().string(), "exists"});
}

// Whoever has the old file open reads it to its end.
TEST_F(HessianFile, ReplacesAnExistingFileWhenAsked) {
  if (!is_root()) return;
  std::ofstream(path()) << "the old file";
  std::ifstream old(path());
  job_of_size(10).create(path(), true);
  EXPECT_EQ(attribute_of(path(), "/", "format").strings, Strings{"hessian_mpi"});
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(old), {}), "the old file");
  EXPECT_EQ(names_in_folder(), std::set<std::string>{"hessian.h5"});
}

TEST_F(HessianFile, CanBeReplacedWhereThereIsNone) {
  if (!is_root()) return;
  job_of_size(10).create(path(), true);
  EXPECT_EQ(names_in_folder(), std::set<std::string>{"hessian.h5"});
}

TEST_F(HessianFile, CanBeMadeInTheCurrentFolder) {
  if (!is_root()) return;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(path(""));
  EXPECT_NO_THROW(job_of_size(10).create("hessian.h5"));
  std::filesystem::current_path(before);
  EXPECT_EQ(names_in_folder(), std::set<std::string>{"hessian.h5"});
}

TEST_F(HessianFile, NeedsAFolderThatExists) {
  if (!is_root()) return;
  expect_input_error([&] { job_of_size(10).create(path("missing") / "h.h5"); },
                     {path("missing").string(), "the output"});
  expect_input_error([&] { check_room_for(path("missing") / "h.h5", 1, false); }, {path("missing").string()});
  EXPECT_TRUE(names_in_folder().empty());
}

TEST_F(HessianFile, IsNoFolder) {
  if (!is_root()) return;
  std::filesystem::create_directory(path());
  for (const bool replace : {false, true}) {
    expect_input_error([&] { job_of_size(10).create(path(), replace); }, {path().string(), "folder"});
  }
}

TEST_F(HessianFile, NeedsAFolderThatCanBeWrittenTo) {
  if (!is_root()) return;
  if (geteuid() == 0) GTEST_SKIP() << "the superuser may write everywhere";
  std::filesystem::create_directory(path("locked"));
  std::filesystem::permissions(path("locked"), std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  expect_input_error([&] { job_of_size(10).create(path("locked") / "h.h5"); }, {path("locked").string(), "the output"});
}

// A matrix of ten million rows: 400 TB.
TEST_F(HessianFile, TellsWhatItNeedsAndWhatThereIsWhereThereIsNoRoom) {
  if (!is_root()) return;
  struct statvfs status {};
  ASSERT_EQ(statvfs(path("").c_str(), &status), 0);
  const double left = static_cast<double>(status.f_bavail) * static_cast<double>(status.f_frsize) / 1e9;
  if (left > 399'000) GTEST_SKIP() << "a disk that has room for it";
  try {
    check_room_for(path(), static_cast<std::uint64_t>(shape_of(10'000'000, Precision::float32).bytes()), false);
    ADD_FAILURE() << "400 TB found room";
  } catch (const InputError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find(path().string()), std::string::npos) << message;
    EXPECT_NE(message.find("400 TB"), std::string::npos) << message;
    std::smatch told;
    ASSERT_TRUE(std::regex_search(message, told, std::regex("has ([0-9.]+) ([kMGT]?)B"))) << message;
    const std::map<std::string, double> gigabytes{{"", 1e-9}, {"k", 1e-6}, {"M", 1e-3}, {"G", 1}, {"T", 1e3}};
    EXPECT_NEAR(std::stod(told[1]) * gigabytes.at(told[2]), left, 5 + 0.01 * left) << message;
  }
  EXPECT_TRUE(names_in_folder().empty());
}

TEST_F(HessianFile, IsNotBegunWhereThereIsNoRoom) {
  if (!is_root()) return;
  Job job;
  job.index.append("embedding.weight", {10'000'000});
  const std::vector<double> unused;
  expect_input_error(
      [&] {
        create_hessian_file(path(), {job.index, job.matrix(), job.dtype, unused, unused, job.attributes}, false);
      },
      {path().string(), "no room", "400 TB", "--storage"});
  EXPECT_TRUE(names_in_folder().empty());
}

TEST_F(HessianFile, ThatIsNotWhatIsNeededSaysWhatItIs) {
  if (!is_root()) return;
  expect_input_error([&] { read_layout(path()); }, {path().string(), "no such file"});
  auto job = job_of_size(10);
  job.part = Rows{2, 5};
  job.create(path());
  expect_input_error([&] { read_layout(path()); }, {path().string(), "not complete"});
  expect_input_error([&] { read_layout(path(), {.complete = false}); }, {path().string(), "rows 2:5 of 10"});
  EXPECT_EQ(read_layout(path(), {.complete = false, .all_rows = false}).matrix.grid.part(), (Rows{2, 5}));
  const auto diagonal = matrix::matrix_of(job.index, job.storage, Entries::diagonal);
  const std::vector<double> ten(10);
  create_hessian_file(path("d.h5"), {job.index, diagonal, job.dtype, ten, ten, job.attributes}, false);
  expect_input_error([&] { read_layout(path("d.h5")); }, {path("d.h5").string(), "the diagonal alone"});
  EXPECT_FALSE(read_layout(path("d.h5"), {.complete = false, .all_entries = false}).complete);
}

TEST_F(HessianFile, HasRoomForASmallMatrix) {
  if (!is_root()) return;
  EXPECT_NO_THROW(check_room_for(path(), 80'000, false));
  EXPECT_TRUE(names_in_folder().empty());
}

}  // namespace
}  // namespace hessian_mpi::file
