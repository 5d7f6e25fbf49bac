# Reads one block of a Hessian by the names of two parameters, without the rest of the file.
#
#     Rscript read_block.R hessian.h5 conv1.weight fc.bias
#
# Needs hdf5r (Debian: r-cran-hdf5r). Prints where the block lies, the sum of its numbers, and its largest entry with
# the elements of the two parameters that it belongs to, all counted from 0 as PyTorch does.
#
# R is column-major, and hdf5r turns the order of dimensions round: /hessian appears transposed, so its columns come
# first here and t() gives the block as Python sees it.
suppressPackageStartupMessages(library(hdf5r))

arguments <- commandArgs(trailingOnly = TRUE)
file <- H5File$new(arguments[1], mode = "r")
if (h5attr(file, "complete") != 1) stop(arguments[1], " is not complete: go on with --resume")
hessian <- file[["hessian"]]
names <- h5attr(hessian, "parameter_names")
shapes <- h5attr(hessian, "parameter_shapes")
# 64-bit integers come as bit64::integer64 where they are large; a double holds every index up to 2^53.
offsets <- as.numeric(h5attr(hessian, "parameter_offsets"))
sizes <- as.numeric(h5attr(hessian, "parameter_sizes"))

find <- function(name) {
  p <- match(name, names)
  if (is.na(p)) stop("no parameter '", name, "'; there are ", paste(names, collapse = ", "))
  p
}
indices <- function(p) offsets[p] + seq_len(sizes[p]) # from 1, as R counts

# Element k (from 0) of a parameter: row-major, so the last index is the fastest, where arrayInd() takes the first.
element <- function(p, k) {
  shape <- as.numeric(regmatches(shapes[p], gregexpr("[0-9]+", shapes[p]))[[1]])
  index <- if (length(shape) == 0) character(0) else rev(arrayInd(k + 1, rev(shape)) - 1)
  paste0(names[p], "[", paste(index, collapse = ", "), "]")
}

p <- find(arguments[2])
q <- find(arguments[3])
# Columns of H first; what is read is this block alone.
block <- t(matrix(hessian[indices(q), indices(p)], sizes[q], sizes[p]))
at <- arrayInd(which.max(abs(block)), dim(block))

cat(sprintf("rows %d to %d, columns %d to %d\n", offsets[p], offsets[p] + sizes[p] - 1, offsets[q],
            offsets[q] + sizes[q] - 1))
cat(sprintf("sum %.17g\n", sum(block)))
cat(sprintf("largest %.17g at H[%s, %s]\n", block[at], element(p, at[1] - 1), element(q, at[2] - 1)))
file$close_all()
