#include "hessian_mpi/file/parameter_names.hpp"

#include <cstdint>
#include <vector>

namespace hessian_mpi::file {

void name_parameters(hdf5::File& file, const std::string& object, const matrix::ParameterIndex& index) {
  std::vector<std::string> names;
  std::vector<std::string> shapes;
  std::vector<std::int64_t> offsets;
  std::vector<std::int64_t> sizes;
  for (const auto& entry : index.entries()) {
    names.push_back(entry.name);
    shapes.push_back(matrix::text_of_shape(entry.shape));
    offsets.push_back(entry.offset);
    sizes.push_back(entry.size);
  }
  file.set_attribute(object, "parameter_names", names);
  file.set_attribute(object, "parameter_offsets", offsets);
  file.set_attribute(object, "parameter_sizes", sizes);
  file.set_attribute(object, "parameter_shapes", shapes);
}

}  // namespace hessian_mpi::file
