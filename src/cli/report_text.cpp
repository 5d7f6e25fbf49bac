#include "hessian_mpi/cli/report_text.hpp"

#include <algorithm>
#include <iomanip>
#include <ostream>
#include <sstream>

#include "hessian_mpi/base/error.hpp"
#include "hessian_mpi/base/quantity.hpp"

namespace hessian_mpi::cli {

void print_line(std::ostream& out, const std::string& name, const std::string& value) {
  out << "  " << std::left << std::setw(18) << name << value << '\n';
}

std::string text_of_number(double value, int digits) {
  std::ostringstream out;
  out << std::setprecision(digits) << value;
  return out.str();
}

std::string text_of_check(const file::CheckFigure& check) {
  if (check.outcome == file::CheckOutcome::not_made) return "not checked";
  std::string what = name_of(check.outcome);
  if (check.outcome == file::CheckOutcome::kinks) {
    what += ": the loss has no derivative at this point, nothing to compare with";
  } else if (check.outcome == file::CheckOutcome::rounding) {
    what += ": too near to rounding to tell";
  }
  return text(text_of_number(check.error, 2), "  ", what, " (at most ", text_of_number(check.tolerance, 2), ')');
}

std::string plural(std::int64_t count, const std::string& noun, const std::string& ending) {
  return text(count, ' ', noun, count == 1 ? "" : ending);
}

std::string text_of_size(const matrix::MatrixShape& matrix) {
  const Rows& part = matrix.grid.part();
  const auto bytes = text_of_bytes(static_cast<std::uint64_t>(matrix.bytes()));
  const auto longest = matrix.longest_row();
  if (matrix.entries == Entries::diagonal) {
    return text("the diagonal, ", matrix.columns, ' ', name_of(matrix.storage), ", ", bytes);
  }
  if (matrix.entries == Entries::diagonal_blocks) {
    return text(plural(static_cast<std::int64_t>(matrix.grid.pieces()), "diagonal block"), ", the largest ", longest,
                " x ", longest, ' ', name_of(matrix.storage), ", ", bytes);
  }
  const auto which = matrix.has_all_rows() ? std::string() : text("rows ", part.begin, ':', part.end, " of ");
  return text(which, matrix.grid.rows(), " x ", matrix.columns, ' ', name_of(matrix.storage), ", ", bytes);
}

std::string title_of_largest(const matrix::MatrixShape& matrix) {
  return matrix.entries == Entries::of_samples ? "largest |J|" : "largest |H|";
}

std::string title_of(const std::string& kind) {
  if (kind == "ggn") return "Gauss-Newton";
  if (kind == "fisher") return "empirical Fisher";
  if (kind == "jacobian") return "Jacobian";
  if (kind == "gradients") return "gradients";
  return "Hessian";
}

std::string text_of_rows(const std::vector<std::int64_t>& rows, const matrix::ParameterIndex& index,
                         const matrix::MatrixShape& matrix) {
  constexpr std::size_t most = 5;
  std::string listed;
  for (std::size_t k = 0; k < std::min(rows.size(), most); ++k) {
    listed += text(k == 0 ? "" : ", ", rows[k], " (", matrix.describe_row(rows[k], index), ')');
  }
  return text(plural(static_cast<std::int64_t>(rows.size()), "row"), ": ", listed, rows.size() > most ? ", ..." : "");
}

}  // namespace hessian_mpi::cli
