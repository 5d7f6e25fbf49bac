/* Reads one block of a Hessian by the names of two parameters, without the rest of the file.
 *
 *     h5cc -o read_block read_block.c -lm && ./read_block hessian.h5 conv1.weight fc.bias
 *
 * (h5pcc where HDF5 is the parallel one.) Prints where the block lies, the sum of its numbers, and its largest entry
 * with the elements of the two parameters that it belongs to. */
#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fail(const char* message, const char* what) {
  fprintf(stderr, "%s: %s\n", message, what);
  exit(1);
}

/* Reads an attribute of any length; the caller owns the values, element_bytes each. */
static void* read_attribute(hid_t object, const char* name, hid_t type, size_t element_bytes, size_t* count) {
  const hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
  if (attribute < 0) fail("no such attribute, so no file of hessian_mpi", name);
  const hid_t space = H5Aget_space(attribute);
  *count = (size_t)H5Sget_simple_extent_npoints(space);
  void* values = malloc(*count * element_bytes);
  if (values == NULL || H5Aread(attribute, type, values) < 0) fail("cannot read the attribute", name);
  H5Sclose(space);
  H5Aclose(attribute);
  return values;
}

struct parameter {
  const char* name;
  const char* shape; /* as text, such as [32, 1, 3, 3] */
  hsize_t offset;
  hsize_t size;
};

static struct parameter find(hid_t hessian, const char* name) {
  size_t count = 0;
  const hid_t text = H5Tcopy(H5T_C_S1);
  H5Tset_size(text, H5T_VARIABLE);
  H5Tset_cset(text, H5T_CSET_UTF8);
  char** names = read_attribute(hessian, "parameter_names", text, sizeof(char*), &count);
  char** shapes = read_attribute(hessian, "parameter_shapes", text, sizeof(char*), &count);
  long long* offsets = read_attribute(hessian, "parameter_offsets", H5T_NATIVE_LLONG, sizeof(long long), &count);
  long long* sizes = read_attribute(hessian, "parameter_sizes", H5T_NATIVE_LLONG, sizeof(long long), &count);
  size_t p = 0;
  while (p < count && strcmp(names[p], name) != 0) ++p;
  if (p == count) fail("no such parameter", name);
  const struct parameter found = {names[p], shapes[p], (hsize_t)offsets[p], (hsize_t)sizes[p]};
  free(names); /* the strings stay, for the found ones are used */
  free(shapes);
  free(offsets);
  free(sizes);
  H5Tclose(text);
  return found;
}

/* Element k as a tuple of indices: row-major, so the last one is the fastest. */
static void print_element(const struct parameter* parameter, hsize_t k) {
  hsize_t shape[32];
  hsize_t index[32];
  int dimensions = 0;
  for (const char* place = parameter->shape + 1; *place != ']' && dimensions < 32;) {
    char* end = NULL;
    shape[dimensions++] = strtoull(place, &end, 10);
    place = *end == ',' ? end + 1 : end;
  }
  for (int d = dimensions - 1; d >= 0; --d) {
    index[d] = k % shape[d];
    k /= shape[d];
  }
  printf("%s[", parameter->name);
  for (int d = 0; d < dimensions; ++d) printf("%s%llu", d == 0 ? "" : ", ", (unsigned long long)index[d]);
  printf("]");
}

static double* read_block(hid_t hessian, const struct parameter* row, const struct parameter* column) {
  const hsize_t start[2] = {row->offset, column->offset};
  const hsize_t count[2] = {row->size, column->size};
  const hid_t in_file = H5Dget_space(hessian);
  const hid_t in_memory = H5Screate_simple(2, count, NULL);
  H5Sselect_hyperslab(in_file, H5S_SELECT_SET, start, NULL, count, NULL);
  double* block = malloc(count[0] * count[1] * sizeof(double)); /* HDF5 converts from what the file has */
  if (block == NULL || H5Dread(hessian, H5T_NATIVE_DOUBLE, in_memory, in_file, H5P_DEFAULT, block) < 0) {
    fail("cannot read the block of", row->name);
  }
  H5Sclose(in_memory);
  H5Sclose(in_file);
  return block;
}

int main(int argc, char** argv) {
  if (argc != 4) fail("usage", "read_block FILE ROW_PARAMETER COLUMN_PARAMETER");
  const hid_t file = H5Fopen(argv[1], H5F_ACC_RDONLY, H5P_DEFAULT);
  if (file < 0) fail("not an HDF5 file that can be read", argv[1]);
  size_t one = 0;
  int* complete = read_attribute(file, "complete", H5T_NATIVE_INT, sizeof(int), &one);
  if (*complete != 1) fail("not complete, go on with --resume", argv[1]);
  const hid_t hessian = H5Dopen2(file, "/hessian", H5P_DEFAULT);
  const struct parameter row = find(hessian, argv[2]);
  const struct parameter column = find(hessian, argv[3]);
  const double* block = read_block(hessian, &row, &column);

  hsize_t largest = 0;
  double sum = 0;
  for (hsize_t k = 0; k < row.size * column.size; ++k) {
    sum += block[k];
    if (fabs(block[k]) > fabs(block[largest])) largest = k;
  }
  printf("rows %llu to %llu, columns %llu to %llu\n", (unsigned long long)row.offset,
         (unsigned long long)(row.offset + row.size - 1), (unsigned long long)column.offset,
         (unsigned long long)(column.offset + column.size - 1));
  printf("sum %.17g\nlargest %.17g at H[", sum, block[largest]);
  print_element(&row, largest / column.size);
  printf(", ");
  print_element(&column, largest % column.size);
  printf("]\n");
  return 0;
}
