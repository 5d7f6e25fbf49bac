# One message on all that is not found, and on how it is got.
set(missing "")
set(missing_of_debian "")
set(missing_of_conda "")

# hessian_mpi_require(FOUND NAME PACKAGES_OF_DEBIAN PACKAGES_OF_CONDA)
macro(hessian_mpi_require found name debian conda)
  if(NOT ${found})
    list(APPEND missing "${name}")
    string(APPEND missing_of_debian " ${debian}")
    string(APPEND missing_of_conda " ${conda}")
  endif()
endmacro()

function(hessian_mpi_expect_requirements)
  if(NOT missing)
    return()
  endif()
  list(JOIN missing ", " missing)
  if(HDF5_FOUND AND NOT HDF5_IS_PARALLEL)
    string(APPEND missing " (HDF5 ${HDF5_VERSION} is there, and was built without MPI)")
  endif()
  message(FATAL_ERROR "hessian_mpi: not found: ${missing}. To get it:\n"
    "  Debian, Ubuntu   apt-get install${missing_of_debian}\n"
    "  conda            conda install -c conda-forge${missing_of_conda}\n"
    "  a cluster        module load openmpi hdf5-parallel boost   (names differ: module avail)\n"
    "Then configure again in a new build folder. What is in a place of its own is found by -DCMAKE_PREFIX_PATH=FOLDER.")
endfunction()
