// Reads one block of a Hessian by the names of two parameters, without the rest of the file, with HDF5's own C++
// library:
//
//     h5c++ -o read_block read_block.cpp && ./read_block hessian.h5 conv1.weight fc.bias
//
// Prints where the block lies, the sum of its numbers, and its largest entry with the elements of the two parameters
// that it belongs to.
#include <H5Cpp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

std::vector<std::string> strings(const H5::DataSet& object, const std::string& name) {
  const auto attribute = object.openAttribute(name);
  const auto space = attribute.getSpace();
  std::vector<char*> pointers(static_cast<std::size_t>(space.getSimpleExtentNpoints()));
  const auto type = attribute.getStrType();
  attribute.read(type, pointers.data());
  std::vector<std::string> values(pointers.begin(), pointers.end());
  H5::DataSet::vlenReclaim(pointers.data(), type, space);
  return values;
}

std::vector<std::int64_t> integers(const H5::DataSet& object, const std::string& name) {
  const auto attribute = object.openAttribute(name);
  std::vector<std::int64_t> values(static_cast<std::size_t>(attribute.getSpace().getSimpleExtentNpoints()));
  attribute.read(H5::PredType::NATIVE_INT64, values.data());
  return values;
}

struct Parameter {
  std::string name;
  std::vector<hsize_t> shape;
  hsize_t offset;
  hsize_t size;

  // Element k as a tuple of indices: row-major, so the last one is the fastest.
  std::string element(hsize_t k) const {
    std::vector<std::string> indices(shape.size());
    for (auto d = shape.size(); d-- > 0; k /= shape[d]) indices[d] = std::to_string(k % shape[d]);
    std::string text;
    for (const auto& index : indices) text += (text.empty() ? "" : ", ") + index;
    return name + "[" + text + "]";
  }
};

Parameter find(const H5::DataSet& hessian, const std::string& name) {
  const auto names = strings(hessian, "parameter_names");
  const auto p = static_cast<std::size_t>(std::find(names.begin(), names.end(), name) - names.begin());
  if (p == names.size()) throw std::runtime_error("no parameter '" + name + "' in this file");
  auto text = strings(hessian, "parameter_shapes")[p];  // such as [32, 1, 3, 3]
  for (char& c : text) c = c >= '0' && c <= '9' ? c : ' ';
  std::istringstream words(text);
  std::vector<hsize_t> shape;
  for (hsize_t extent = 0; words >> extent;) shape.push_back(extent);
  return {name, shape, static_cast<hsize_t>(integers(hessian, "parameter_offsets")[p]),
          static_cast<hsize_t>(integers(hessian, "parameter_sizes")[p])};
}

std::vector<double> read_block(const H5::DataSet& hessian, const Parameter& row, const Parameter& column) {
  const hsize_t start[] = {row.offset, column.offset};
  const hsize_t count[] = {row.size, column.size};
  auto in_file = hessian.getSpace();
  in_file.selectHyperslab(H5S_SELECT_SET, count, start);
  std::vector<double> block(row.size * column.size);  // HDF5 converts from what the file has
  hessian.read(block.data(), H5::PredType::NATIVE_DOUBLE, H5::DataSpace(2, count), in_file);
  return block;
}

void show_block(const std::string& path, const std::string& row_name, const std::string& column_name) {
  const H5::H5File file(path, H5F_ACC_RDONLY);
  int complete = 0;
  file.openAttribute("complete").read(H5::PredType::NATIVE_INT, &complete);
  if (complete != 1) throw std::runtime_error(path + " is not complete: go on with --resume");
  const auto hessian = file.openDataSet("/hessian");
  const auto row = find(hessian, row_name);
  const auto column = find(hessian, column_name);
  const auto block = read_block(hessian, row, column);

  const auto smaller = [](double a, double b) { return std::abs(a) < std::abs(b); };
  const auto largest = static_cast<hsize_t>(std::max_element(block.begin(), block.end(), smaller) - block.begin());
  std::cout.precision(17);
  std::cout << "rows " << row.offset << " to " << row.offset + row.size - 1 << ", columns " << column.offset << " to "
            << column.offset + column.size - 1 << '\n'
            << "sum " << std::accumulate(block.begin(), block.end(), 0.0) << '\n'
            << "largest " << block[largest] << " at H[" << row.element(largest / column.size) << ", "
            << column.element(largest % column.size) << "]\n";
}

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: read_block FILE ROW_PARAMETER COLUMN_PARAMETER\n";
    return 1;
  }
  H5::Exception::dontPrint();
  try {
    show_block(argv[1], argv[2], argv[3]);
    return 0;
  } catch (const H5::Exception& error) {
    std::cerr << argv[1] << ": " << error.getDetailMsg() << '\n';
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
  }
  return 1;
}
