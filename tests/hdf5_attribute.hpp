#pragma once
/// Attributes read back with the HDF5 library itself, not with the functions under test.

#include <gtest/gtest.h>
#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace hessian_mpi {

/// An attribute as it lies in a file; of the three kinds of values, the one that it has is filled.
struct StoredAttribute {
  bool exists = false;
  bool is_scalar = false;
  std::vector<std::string> strings;
  std::vector<std::int64_t> integers;
  std::vector<double> numbers;
};

inline void read_strings(hid_t attribute, hid_t space, std::size_t count, std::vector<std::string>& strings) {
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, H5T_VARIABLE);
  H5Tset_cset(type, H5T_CSET_UTF8);
  std::vector<char*> pointers(count);
  EXPECT_GE(H5Aread(attribute, type, pointers.data()), 0);
  for (const char* pointer : pointers) strings.emplace_back(pointer == nullptr ? "" : pointer);
  H5Dvlen_reclaim(type, space, H5P_DEFAULT, pointers.data());
  H5Tclose(type);
}

inline void read_values(hid_t attribute, StoredAttribute& stored) {
  const hid_t space = H5Aget_space(attribute);
  const hid_t type = H5Aget_type(attribute);
  stored.exists = true;
  stored.is_scalar = H5Sget_simple_extent_type(space) == H5S_SCALAR;
  const auto count = static_cast<std::size_t>(H5Sget_simple_extent_npoints(space));
  if (H5Tget_class(type) == H5T_STRING) {
    read_strings(attribute, space, count, stored.strings);
  } else if (H5Tget_class(type) == H5T_INTEGER) {
    stored.integers.resize(count);
    EXPECT_GE(H5Aread(attribute, H5T_NATIVE_INT64, stored.integers.data()), 0);
  } else {
    stored.numbers.resize(count);
    EXPECT_GE(H5Aread(attribute, H5T_NATIVE_DOUBLE, stored.numbers.data()), 0);
  }
  H5Tclose(type);
  H5Sclose(space);
}

/// The attribute of an object of a file, or one that does not exist.
inline StoredAttribute attribute_of(const std::filesystem::path& path, const std::string& object,
                                    const std::string& name) {
  StoredAttribute stored;
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  EXPECT_GE(file, 0) << path;
  if (file < 0) return stored;
  if (H5Aexists_by_name(file, object.c_str(), name.c_str(), H5P_DEFAULT) > 0) {
    const hid_t attribute = H5Aopen_by_name(file, object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
    read_values(attribute, stored);
    H5Aclose(attribute);
  }
  H5Fclose(file);
  return stored;
}

}  // namespace hessian_mpi
