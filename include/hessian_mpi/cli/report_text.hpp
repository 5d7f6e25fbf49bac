#pragma once
/// The words that reports of all programs are put together from.

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include "hessian_mpi/file/check_figures.hpp"
#include "hessian_mpi/matrix/parameter_index.hpp"
#include "hessian_mpi/matrix/partition.hpp"

namespace hessian_mpi::cli {

/// "  loss              1.74": a line of a report.
void print_line(std::ostream& out, const std::string& name, const std::string& value);
/// A number with so many digits.
std::string text_of_number(double value, int digits);
/// "3 ranks", "1 rank".
std::string plural(std::int64_t count, const std::string& noun, const std::string& ending = "s");
/// "1.2e-08  passed (at most 0.001)".
std::string text_of_check(const file::CheckFigure& check);
/// "rows 0:10 of 475 x 475 float32, 19 kB".
std::string text_of_size(const matrix::MatrixShape& matrix);
/// "3 rows, the first: 17 (fc.weight[0, 1]), ...": some rows for a message.
std::string text_of_rows(const std::vector<std::int64_t>& rows, const matrix::ParameterIndex& index,
                         const matrix::MatrixShape& matrix = {});
/// "largest |H|", or of rows of samples "largest |J|".
std::string title_of_largest(const matrix::MatrixShape& matrix);
/// What a matrix of that kind, an attribute of its file, is called.
std::string title_of(const std::string& kind);

}  // namespace hessian_mpi::cli
