#include "hessian_mpi/hdf5/hdf5.hpp"

#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/stat.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <limits>
#include <memory>
#include <numeric>

#include "content_of.hpp"
#include "hdf5_attribute.hpp"
#include "hessian_mpi/base/error.hpp"
#include "shared_folder.hpp"

namespace hessian_mpi::hdf5 {
namespace {

constexpr std::uint64_t mebibyte = 1 << 20;

// A folder per test; tests run in one process.
class Hdf5 : public testing::Test {
 protected:
  std::filesystem::path path(const std::string& name = "file.h5") const { return folder_ / name; }

 private:
  const ranks::Communicator world_ = ranks::Communicator::world();
  const SharedFolder folder_{world_};
};

// Expects a RunError with all the parts in its message, and nothing on stderr, where HDF5 itself prints errors.
template <class Action>
void expect_run_error(const Action& action, const std::vector<std::string>& parts) {
  testing::internal::CaptureStderr();
  try {
    action();
    ADD_FAILURE() << "no error; expected one with: " << parts.front();
  } catch (const RunError& error) {
    const std::string message = error.what();
    for (const auto& part : parts)
      EXPECT_NE(message.find(part), std::string::npos) << part << " is not in: " << message;
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

// What the h5dump command prints with the arguments; empty where there is no such command.
std::string h5dump(const std::string& arguments, const std::filesystem::path& path) {
  const auto command = "h5dump " + arguments + " '" + path.string() + "' 2>/dev/null";
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  std::string output;
  std::array<char, 4096> buffer{};
  for (std::size_t got = 0; (got = std::fread(buffer.data(), 1, buffer.size(), pipe.get())) > 0;) {
    output.append(buffer.data(), got);
  }
  return output;
}

// Writes values, closes, opens and reads them again.
template <class Value>
void expect_round_trip(const std::filesystem::path& path, Type type, const std::vector<Value>& values) {
  auto file = File::create(path);
  file.create_dataset("/values", type, {values.size()});
  file.write("/values", type, values.data());
  file.close();
  const auto reader = File::open_to_read(path);
  EXPECT_EQ(reader.type("/values"), type);
  EXPECT_EQ(reader.shape("/values"), std::vector<std::uint64_t>{values.size()});
  std::vector<Value> read(values.size());
  reader.read("/values", type, read.data());
  EXPECT_EQ(read, values);
  // The same numbers lie in the file as in memory, at the offset that the file tells.
  const auto bytes = content_of(path);
  const auto offset = reader.offset_in_file("/values");
  ASSERT_LE(offset + values.size() * sizeof(Value), bytes.size());
  EXPECT_EQ(bytes.substr(offset, values.size() * sizeof(Value)),
            std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(Value)));
}

template <class Value>
std::vector<Value> extremes() {
  using Limits = std::numeric_limits<Value>;
  return {Limits::lowest(), Limits::max(), 0, 1, static_cast<Value>(-1), Limits::min()};
}

TEST_F(Hdf5, KeepsValuesOfEveryType) {
  expect_round_trip(path("int8"), Type::int8, extremes<std::int8_t>());
  expect_round_trip(path("uint8"), Type::uint8, extremes<std::uint8_t>());
  expect_round_trip(path("int16"), Type::int16, extremes<std::int16_t>());
  expect_round_trip(path("int32"), Type::int32, extremes<std::int32_t>());
  expect_round_trip(path("int64"), Type::int64, extremes<std::int64_t>());
  expect_round_trip(path("uint64"), Type::uint64, extremes<std::uint64_t>());
  expect_round_trip(path("float32"), Type::float32, extremes<float>());
  expect_round_trip(path("float64"), Type::float64, extremes<double>());
}

TEST_F(Hdf5, ConvertsBetweenTypesOfNumbers) {
  auto file = File::create(path());
  file.create_dataset("/values", Type::float32, {3});
  const std::vector<double> doubles{0.1, -2.5, 1e30};
  file.write("/values", Type::float64, doubles.data());
  std::vector<float> floats(3);
  file.read("/values", Type::float32, floats.data());
  EXPECT_EQ(floats, (std::vector<float>{0.1F, -2.5F, 1e30F}));
}

TEST_F(Hdf5, RefusesTypesWithoutNumbers) {
  auto file = File::create(path());
  EXPECT_THROW(file.create_dataset("/text", Type::string, {1}), RunError);
  EXPECT_THROW(file.create_dataset("/other", Type::other, {1}), RunError);
}

TEST_F(Hdf5, KeepsShapesOfAnyRank) {
  auto file = File::create(path());
  file.create_dataset("/scalar", Type::float64, {});
  file.create_dataset("/cube", Type::float64, {2, 3, 4});
  file.create_dataset("/empty", Type::float64, {0, 5});
  EXPECT_TRUE(file.shape("/scalar").empty());
  EXPECT_EQ(file.shape("/cube"), (std::vector<std::uint64_t>{2, 3, 4}));
  EXPECT_EQ(file.shape("/empty"), (std::vector<std::uint64_t>{0, 5}));
}

TEST_F(Hdf5, ListsGroupsAndTheirMembersByName) {
  auto file = File::create(path());
  file.create_group("/inputs");
  for (const auto* name : {"/inputs/2", "/inputs/0", "/inputs/1"}) file.create_dataset(name, Type::int64, {1});
  EXPECT_EQ(file.members("/inputs"), (std::vector<std::string>{"0", "1", "2"}));
  EXPECT_TRUE(file.has("/inputs"));
  EXPECT_TRUE(file.has("/inputs/1"));
  EXPECT_FALSE(file.has("/targets"));
  EXPECT_FALSE(file.has("/inputs/3"));
  EXPECT_TRUE(file.is_group("/inputs"));
  EXPECT_FALSE(file.is_group("/inputs/0"));
}

TEST_F(Hdf5, NamesFileAndObjectWhereOneIsMissing) {
  auto file = File::create(path());
  double number = 0;
  expect_run_error([&] { file.shape("/gradient"); }, {"/gradient", path().string()});
  expect_run_error([&] { file.read("/gradient", Type::float64, &number); }, {"/gradient", path().string()});
  expect_run_error([&] { file.write("/gradient", Type::float64, &number); }, {"/gradient", path().string()});
  expect_run_error([&] { file.members("/inputs"); }, {"/inputs", path().string()});
  expect_run_error([&] { file.is_group("/inputs"); }, {"/inputs", path().string()});
  expect_run_error([&] { file.set_attribute("/gradient", "unit", std::int64_t{1}); }, {"/gradient", path().string()});
  expect_run_error([&] { file.create_dataset("/no/group", Type::int64, {1}); }, {"/no/group", path().string()});
}

TEST_F(Hdf5, PlacesLargeDatasetsAtWholeMebibytesWithoutFilling) {
  const std::uint64_t gibibyte = 1 << 30;
  auto file = File::create(path());
  file.create_dataset("/small", Type::int64, {3});
  file.create_dataset("/hessian", Type::float32, {1 << 14, 1 << 14});
  const auto offset = file.offset_in_file("/hessian");
  file.close();
  EXPECT_EQ(offset % mebibyte, 0U);
  struct stat status {};
  ASSERT_EQ(stat(path().c_str(), &status), 0);
  EXPECT_GE(static_cast<std::uint64_t>(status.st_size), offset + gibibyte);
  EXPECT_LT(static_cast<std::uint64_t>(status.st_blocks) * 512, 8 * mebibyte)
      << "something was written into a gibibyte";
}

TEST_F(Hdf5, CreatesContiguousDatasetsAllocatedEarlyAndNeverFilled) {
  auto file = File::create(path());
  file.create_dataset("/hessian", Type::float64, {10, 10});
  file.close();
  const auto properties = h5dump("-p -H -d /hessian", path());
  if (properties.empty()) GTEST_SKIP() << "no h5dump";
  for (const auto* part :
       {"CONTIGUOUS", "H5D_FILL_TIME_NEVER", "H5D_ALLOC_TIME_EARLY", "H5T_IEEE_F64LE", "( 10, 10 )"}) {
    EXPECT_NE(properties.find(part), std::string::npos) << part << " is not in:\n" << properties;
  }
}

TEST_F(Hdf5, WritesWhatH5dumpReads) {
  auto file = File::create(path());
  file.create_dataset("/numbers", Type::int64, {2, 3});
  const std::vector<std::int64_t> numbers{11, 12, 13, 21, 22, -23};
  file.write("/numbers", Type::int64, numbers.data());
  file.write_strings("/names", {"conv1.weight", "b"});
  file.close();
  const auto dumped = h5dump("-d /numbers -d /names", path());
  if (dumped.empty()) GTEST_SKIP() << "no h5dump";
  EXPECT_NE(dumped.find("(0,0): 11, 12, 13,"), std::string::npos) << dumped;
  EXPECT_NE(dumped.find("(1,0): 21, 22, -23"), std::string::npos) << dumped;
  EXPECT_NE(dumped.find("\"conv1.weight\""), std::string::npos) << dumped;
}

// Readers since HDF5 1.8 understand superblock version 2; the version stands after the 8 bytes of the signature.
TEST_F(Hdf5, WritesTheFormatOf18) {
  File::create(path()).close();
  EXPECT_EQ(content_of(path()).substr(0, 9), "\x89HDF\r\n\x1a\n\x02");
  auto again = File::open_to_write(path());
  again.create_dataset("/values", Type::int64, {1});
  again.close();
  EXPECT_EQ(content_of(path()).substr(0, 9), "\x89HDF\r\n\x1a\n\x02");
}

// What a killed job leaves: format versions after 1.8's refuse to open such a file.
TEST_F(Hdf5, OpensAFileWhoseWriterNeverClosedIt) {
  auto file = File::create(path());
  file.create_dataset("/values", Type::int64, {2});
  file.close();
  auto open = File::open_to_write(path());
  const std::array<std::int64_t, 2> values{5, 6};
  open.write("/values", Type::int64, values.data());
  std::filesystem::copy_file(path(), path("copy.h5"));
  std::filesystem::copy_file(path(), path("parallel.h5"));
  EXPECT_EQ(File::open_to_read(path("copy.h5")).shape("/values"), std::vector<std::uint64_t>{2});
  File::open_to_write(path("copy.h5")).write("/values", Type::int64, values.data());
  EXPECT_EQ(File::open_parallel(path("parallel.h5"), MPI_COMM_SELF).shape("/values"), std::vector<std::uint64_t>{2});
}

TEST_F(Hdf5, NeverTouchesAnExistingFileOnCreation) {
  std::ofstream(path()) << "precious";
  expect_run_error([&] { File::create(path()); }, {path().string()});
  EXPECT_EQ(content_of(path()), "precious");
}

TEST_F(Hdf5, CannotCreateInAFolderThatDoesNotExist) {
  expect_run_error([&] { File::create(path("missing") / "file.h5"); }, {"missing"});
}

TEST_F(Hdf5, NamesTheFileThatCannotBeOpened) {
  std::ofstream(path("text")) << "no HDF5 at all";
  auto file = File::create(path("truncated"));
  file.create_dataset("/values", Type::float64, {200'000});
  file.close();
  std::filesystem::resize_file(path("truncated"), mebibyte + 1000);
  for (const auto* name : {"missing", "text", "truncated"}) {
    expect_run_error([&] { File::open_to_read(path(name)); }, {path(name).string()});
    expect_run_error([&] { File::open_to_write(path(name)); }, {path(name).string()});
    expect_run_error([&] { File::open_parallel(path(name), MPI_COMM_SELF); }, {path(name).string()});
  }
}

TEST_F(Hdf5, NamesTheFolderThatCannotBeOpened) {
  expect_run_error([&] { File::open_to_read(path("")); }, {path("").string()});
}

TEST_F(Hdf5, NamesTheEmptyFileThatCannotBeRead) {
  std::ofstream(path()).flush();
  expect_run_error([&] { File::open_to_read(path()); }, {path().string()});
}

TEST_F(Hdf5, FilesOpenToReadCannotBeWritten) {
  auto file = File::create(path());
  file.create_dataset("/values", Type::int64, {1});
  file.close();
  auto reader = File::open_to_read(path());
  expect_run_error([&] { reader.create_group("/group"); }, {"/group", path().string()});
  expect_run_error([&] { reader.set_attribute("/", "complete", std::int64_t{1}); }, {"complete", path().string()});
}

TEST_F(Hdf5, RecognisesItsFiles) {
  File::create(path()).close();
  std::ofstream(path("text")) << "no HDF5 at all";
  EXPECT_TRUE(is_hdf5(path()));
  EXPECT_FALSE(is_hdf5(path("text")));
  EXPECT_FALSE(is_hdf5(path("missing")));
  EXPECT_FALSE(is_hdf5(path("")));
}

// MATLAB's files are HDF5 behind 512 bytes of text.
TEST_F(Hdf5, RecognisesFilesThatBeginWithOtherBytes) {
  const auto all = H5Pcreate(H5P_FILE_CREATE);
  H5Pset_userblock(all, 512);
  H5Fclose(H5Fcreate(path().c_str(), H5F_ACC_EXCL, all, H5P_DEFAULT));
  H5Pclose(all);
  EXPECT_TRUE(is_hdf5(path()));
}

TEST_F(Hdf5, TellsItsVersion) {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  ASSERT_GE(H5get_libversion(&major, &minor, &release), 0);
  EXPECT_EQ(library_version(), std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(release));
}

// Files of others, made with the library itself.
class Hdf5OfOthers : public Hdf5 {
 protected:
  void SetUp() override { file_ = H5Fcreate(path().c_str(), H5F_ACC_EXCL, H5P_DEFAULT, H5P_DEFAULT); }
  void make(const char* name, hid_t type, hsize_t count, const void* values) const {
    const hid_t space = H5Screate_simple(1, &count, nullptr);
    const hid_t dataset = H5Dcreate2(file_, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (values != nullptr) {
      EXPECT_GE(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), 0);
    }
    H5Dclose(dataset);
    H5Sclose(space);
  }
  File reopened() {
    H5Fclose(file_);
    return File::open_to_read(path());
  }
  hid_t file_ = -1;
};

TEST_F(Hdf5OfOthers, ReadAsTheSmallestTypeThatHoldsAllValues) {
  make("int8", H5T_STD_I8LE, 1, nullptr);
  make("uint8", H5T_STD_U8LE, 1, nullptr);
  make("int16", H5T_STD_I16BE, 1, nullptr);
  make("uint16", H5T_STD_U16LE, 1, nullptr);
  make("int32", H5T_STD_I32BE, 1, nullptr);
  make("uint32", H5T_STD_U32LE, 1, nullptr);
  make("int64", H5T_STD_I64BE, 1, nullptr);
  make("uint64", H5T_STD_U64LE, 1, nullptr);
  make("float32", H5T_IEEE_F32BE, 1, nullptr);
  make("float64", H5T_IEEE_F64BE, 1, nullptr);
  make("text", H5T_C_S1, 1, nullptr);
  make("opaque", H5T_STD_REF_OBJ, 1, nullptr);
  const auto file = reopened();
  EXPECT_EQ(file.type("/int8"), Type::int8);
  EXPECT_EQ(file.type("/uint8"), Type::uint8);
  EXPECT_EQ(file.type("/int16"), Type::int16);
  EXPECT_EQ(file.type("/uint16"), Type::int32);
  EXPECT_EQ(file.type("/int32"), Type::int32);
  EXPECT_EQ(file.type("/uint32"), Type::int64);
  EXPECT_EQ(file.type("/int64"), Type::int64);
  EXPECT_EQ(file.type("/uint64"), Type::uint64);
  EXPECT_EQ(file.type("/float32"), Type::float32);
  EXPECT_EQ(file.type("/float64"), Type::float64);
  EXPECT_EQ(file.type("/text"), Type::string);
  EXPECT_EQ(file.type("/opaque"), Type::other);
}

TEST_F(Hdf5OfOthers, ReadFromAnyByteOrder) {
  // 258 and -2 as big-endian bytes.
  const std::array<unsigned char, 8> bytes{0, 0, 1, 2, 0xff, 0xff, 0xff, 0xfe};
  make("numbers", H5T_STD_I32BE, 2, bytes.data());
  std::array<std::int32_t, 2> numbers{};
  reopened().read("/numbers", Type::int32, numbers.data());
  EXPECT_EQ(numbers, (std::array<std::int32_t, 2>{258, -2}));
}

TEST_F(Hdf5OfOthers, ReadBooleansOfH5py) {
  const hid_t type = H5Tenum_create(H5T_NATIVE_INT8);
  const std::array<std::int8_t, 2> members{0, 1};
  H5Tenum_insert(type, "FALSE", &members[0]);
  H5Tenum_insert(type, "TRUE", &members[1]);
  const std::array<std::int8_t, 3> values{1, 0, 1};
  make("mask", type, 3, values.data());
  H5Tclose(type);
  const auto file = reopened();
  EXPECT_EQ(file.type("/mask"), Type::boolean);
  std::array<std::int8_t, 3> read{};
  file.read("/mask", Type::boolean, read.data());
  EXPECT_EQ(read, values);
}

TEST_F(Hdf5OfOthers, ReadChunksLikeContiguousNumbers) {
  const std::array<hsize_t, 2> shape{4, 6};
  const std::array<hsize_t, 2> chunk{3, 4};
  std::vector<std::int64_t> values(24);
  std::iota(values.begin(), values.end(), 0);
  const hid_t space = H5Screate_simple(2, shape.data(), nullptr);
  const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(properties, 2, chunk.data());
  const hid_t dataset = H5Dcreate2(file_, "chunked", H5T_STD_I64LE, space, H5P_DEFAULT, properties, H5P_DEFAULT);
  EXPECT_GE(H5Dwrite(dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
  H5Dclose(dataset);
  H5Pclose(properties);
  H5Sclose(space);
  const auto file = reopened();
  std::vector<std::int64_t> read(24);
  file.read("/chunked", Type::int64, read.data());
  EXPECT_EQ(read, values);
  EXPECT_THROW(file.offset_in_file("/chunked"), RunError) << "chunks lie at many places";
}

TEST_F(Hdf5OfOthers, WithoutElementsAreNamed) {
  const hid_t space = H5Screate(H5S_NULL);
  H5Dclose(H5Dcreate2(file_, "null", H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  H5Sclose(space);
  const auto file = reopened();
  expect_run_error([&] { file.shape("/null"); }, {"/null", path().string()});
}

// A matrix whose element in row i and column j is 100 i + j.
File matrix_file(const std::filesystem::path& path, std::uint64_t rows, std::uint64_t columns) {
  std::vector<double> values;
  for (std::uint64_t i = 0; i < rows; ++i) {
    for (std::uint64_t j = 0; j < columns; ++j) values.push_back(static_cast<double>(100 * i + j));
  }
  auto file = File::create(path);
  file.create_dataset("/matrix", Type::float64, {rows, columns});
  file.write("/matrix", Type::float64, values.data());
  return file;
}

TEST_F(Hdf5, ReadsTiles) {
  const auto file = matrix_file(path(), 5, 7);
  std::vector<double> tile(6);
  file.read_tile("/matrix", Type::float64, {1, 2, 2, 3}, tile.data());
  EXPECT_EQ(tile, (std::vector<double>{102, 103, 104, 202, 203, 204}));
  std::vector<float> corner(1);
  file.read_tile("/matrix", Type::float32, {4, 6, 1, 1}, corner.data());
  EXPECT_EQ(corner[0], 406);
}

TEST_F(Hdf5, ReadsNothingIntoAnEmptyTile) {
  const auto file = matrix_file(path(), 5, 7);
  double untouched = -1;
  file.read_tile("/matrix", Type::float64, {0, 0, 0, 7}, &untouched);
  file.read_tile("/matrix", Type::float64, {0, 0, 5, 0}, &untouched);
  EXPECT_EQ(untouched, -1);
}

TEST_F(Hdf5, RefusesTilesBeyondTheMatrix) {
  const auto file = matrix_file(path(), 5, 7);
  std::vector<double> tile(100);
  expect_run_error(
      [&] {
        file.read_tile("/matrix", Type::float64, {4, 0, 2, 7}, tile.data());
      },
      {"rows 4 to 6", path().string()});
  expect_run_error([&] { file.read_tile("/matrix", Type::float64, {0, 5, 1, 3}, tile.data()); }, {path().string()});
}

TEST_F(Hdf5, WritesTilesInParallelMode) {
  matrix_file(path(), 4, 3).close();
  auto file = File::open_parallel(path(), MPI_COMM_SELF);
  const std::vector<double> tile{-1, -2, -3, -4, -5, -6};
  file.write_tile_collectively("/matrix", Type::float64, {1, 0, 2, 3}, tile.data());
  file.write_tile_collectively("/matrix", Type::float64, {0, 0, 0, 3}, nullptr);
  file.close();
  std::vector<double> all(12);
  File::open_to_read(path()).read("/matrix", Type::float64, all.data());
  EXPECT_EQ(all, (std::vector<double>{0, 1, 2, -1, -2, -3, -4, -5, -6, 300, 301, 302}));
}

TEST_F(Hdf5, KeepsStringsOfDifferentLengths) {
  const std::vector<std::string> names{"conv1.weight", "b", "", "größe"};
  auto file = File::create(path());
  file.write_strings("/names", names);
  EXPECT_EQ(file.type("/names"), Type::string);
  EXPECT_EQ(file.shape("/names"), std::vector<std::uint64_t>{4});
  file.close();
  // Each is padded with zeros to the longest, 12 bytes.
  const auto bytes = content_of(path());
  const auto offset = File::open_to_read(path()).offset_in_file("/names");
  for (std::size_t i = 0; i < names.size(); ++i) {
    EXPECT_EQ(bytes.substr(offset + 12 * i, 12), names[i] + std::string(12 - names[i].size(), '\0'));
  }
}

// Octave reads no fixed strings that are marked as UTF-8.
TEST_F(Hdf5, MarksStringsAsUtf8WhereTheyHaveToBe) {
  auto file = File::create(path());
  file.write_strings("/plain", {"conv1.weight", ""});
  file.write_strings("/others", {"conv1.weight", "größe"});
  file.close();
  const auto dumped = [&](const char* dataset) { return h5dump(std::string("-H -d ") + dataset, path()); };
  if (dumped("/plain").empty()) GTEST_SKIP() << "no h5dump";
  EXPECT_NE(dumped("/plain").find("H5T_CSET_ASCII"), std::string::npos) << dumped("/plain");
  EXPECT_NE(dumped("/others").find("H5T_CSET_UTF8"), std::string::npos) << dumped("/others");
}

TEST_F(Hdf5, KeepsNoStringsAndEmptyOnes) {
  auto file = File::create(path());
  file.write_strings("/none", {});
  file.write_strings("/empty", {"", ""});
  EXPECT_EQ(file.shape("/none"), std::vector<std::uint64_t>{0});
  EXPECT_EQ(file.shape("/empty"), std::vector<std::uint64_t>{2});
}

TEST_F(Hdf5, KeepsAttributesOfEveryKind) {
  auto file = File::create(path());
  file.create_dataset("/hessian", Type::float32, {1});
  file.set_attribute("/", "loss", std::string("cross_entropy, µ"));
  file.set_attribute("/", "complete", std::int64_t{-5});
  file.set_attribute("/", "loss_value", 0.1);
  file.set_attribute("/hessian", "names", std::vector<std::string>{"a", "", "größe"});
  file.set_attribute("/hessian", "offsets", std::vector<std::int64_t>{0, 1LL << 40});
  file.close();
  EXPECT_EQ(attribute_of(path(), "/", "loss").strings, std::vector<std::string>{"cross_entropy, µ"});
  EXPECT_EQ(attribute_of(path(), "/", "complete").integers, std::vector<std::int64_t>{-5});
  EXPECT_EQ(attribute_of(path(), "/", "loss_value").numbers, std::vector<double>{0.1});
  for (const auto* name : {"loss", "complete", "loss_value"}) EXPECT_TRUE(attribute_of(path(), "/", name).is_scalar);
  EXPECT_EQ(attribute_of(path(), "/hessian", "names").strings, (std::vector<std::string>{"a", "", "größe"}));
  EXPECT_EQ(attribute_of(path(), "/hessian", "offsets").integers, (std::vector<std::int64_t>{0, 1LL << 40}));
}

TEST_F(Hdf5, KeepsVectorsOfOneAsVectors) {
  auto file = File::create(path());
  file.set_attribute("/", "names", std::vector<std::string>{"weight"});
  file.set_attribute("/", "sizes", std::vector<std::int64_t>{7});
  file.close();
  EXPECT_FALSE(attribute_of(path(), "/", "names").is_scalar);
  EXPECT_FALSE(attribute_of(path(), "/", "sizes").is_scalar);
}

// Attributes of up to 64 KiB lie in an object's header, larger ones elsewhere; a string takes 16 bytes in either.
TEST_F(Hdf5, KeepsAttributesBeyond64Kibibytes) {
  for (const std::size_t count : {4094U, 4095U, 4096U, 5000U, 20000U}) {
    std::vector<std::string> names;
    std::vector<std::int64_t> offsets;
    for (std::size_t i = 0; i < count; ++i) {
      names.push_back("encoder.layers." + std::to_string(i) + ".self_attention.weight");
      offsets.push_back(static_cast<std::int64_t>(i * i));
    }
    const auto name = std::to_string(count);
    auto file = File::create(path(name));
    file.create_dataset("/hessian", Type::float32, {1});
    file.set_attribute("/hessian", "parameter_names", names);
    file.set_attribute("/hessian", "parameter_offsets", offsets);
    file.close();
    EXPECT_EQ(attribute_of(path(name), "/hessian", "parameter_names").strings, names) << count;
    EXPECT_EQ(attribute_of(path(name), "/hessian", "parameter_offsets").integers, offsets) << count;
  }
}

TEST_F(Hdf5, ReplacesAttributes) {
  auto file = File::create(path());
  file.set_attribute("/", "complete", std::int64_t{0});
  file.set_attribute("/", "finished", std::string(""));
  file.set_attribute("/", "sizes", std::vector<std::int64_t>{1, 2});
  file.set_attribute("/", "any", std::int64_t{7});
  file.close();
  auto again = File::open_to_write(path());
  again.set_attribute("/", "complete", std::int64_t{1});
  again.set_attribute("/", "finished", std::string("2026-01-01T00:00:00Z"));
  again.set_attribute("/", "sizes", std::vector<std::int64_t>{3, 4, 5});
  again.set_attribute("/", "any", std::string("seven"));
  again.close();
  EXPECT_EQ(attribute_of(path(), "/", "complete").integers, std::vector<std::int64_t>{1});
  EXPECT_EQ(attribute_of(path(), "/", "finished").strings, std::vector<std::string>{"2026-01-01T00:00:00Z"});
  EXPECT_EQ(attribute_of(path(), "/", "sizes").integers, (std::vector<std::int64_t>{3, 4, 5}));
  EXPECT_EQ(attribute_of(path(), "/", "any").strings, std::vector<std::string>{"seven"});
}

int closed_handles(std::int64_t id) {
  static std::int64_t closed = 0;
  closed += id;
  return static_cast<int>(closed);
}

TEST(Handle, IsClosedOnceAfterMoves) {
  const int before = closed_handles(0);
  {
    Handle first(5, closed_handles);
    Handle second = std::move(first);
    Handle third;
    third = std::move(second);
    EXPECT_EQ(third.id(), 5);
    EXPECT_EQ(closed_handles(0), before);
  }
  EXPECT_EQ(closed_handles(0), before + 5);
}

TEST(Handle, IsNotClosedWhereItWasReleased) {
  const int before = closed_handles(0);
  {
    Handle handle(5, closed_handles);
    EXPECT_EQ(handle.release(), 5);
  }
  EXPECT_EQ(closed_handles(0), before);
}

}  // namespace
}  // namespace hessian_mpi::hdf5
