# Man pages of the programs, made by help2man of what each says to --help, by the target `manual`, and installed.
# Included where the programs are. Without help2man there are no pages.
find_program(HELP2MAN help2man)
if(NOT HELP2MAN)
  message(STATUS "man pages are left out: not found: help2man (Debian: help2man)")
endif()
set(HESSIAN_MPI_MANUAL ${CMAKE_CURRENT_LIST_DIR}/manual_page.cmake)
set(HESSIAN_MPI_MAN_PAGES ${CMAKE_CURRENT_BINARY_DIR}/man1 CACHE INTERNAL "")

# What cannot be asked for --help here gets no page, with a message: an MPI that starts nothing outside of its jobs, a
# script whose Python is not there.
function(hessian_mpi_add_manual name synopsis brief)
  if(NOT HELP2MAN OR NOT TARGET ${name} AND NOT name STREQUAL "hessian_plot")
    return()
  endif()
  set(program $<TARGET_FILE:${name}>)
  if(NOT TARGET ${name})
    set(program ${PROJECT_BINARY_DIR}/src/${name})
  endif()
  set(page ${HESSIAN_MPI_MAN_PAGES}/${name}.1)
  add_custom_command(OUTPUT ${page}
    COMMAND ${CMAKE_COMMAND} -DHELP2MAN=${HELP2MAN} -DNAME=${name} -DPROGRAM=${program} -DPAGE=${page}
            -DVERSION=${PROJECT_VERSION} -DSYNOPSIS=${synopsis} -DBRIEF=${brief} -P ${HESSIAN_MPI_MANUAL}
    DEPENDS ${program} ${HESSIAN_MPI_MANUAL} COMMENT "Man page of ${name}" VERBATIM)
  set(pages ${pages} ${page} PARENT_SCOPE)
  install(FILES ${page} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 OPTIONAL)
endfunction()

hessian_mpi_add_manual(hessian_mpi "[OPTION]..." "compute the exact Hessian of a PyTorch network's loss")
hessian_mpi_add_manual(hessian_info "FILE [OPTION]..." "say what is in a file of hessian_mpi")
hessian_mpi_add_manual(hessian_plot "FILE [OPTION]..." "draw a matrix of hessian_mpi and its spectrum")
hessian_mpi_add_manual(hessian_spectrum "FILE [OPTION]..." "compute eigenvalues of a matrix of hessian_mpi")
hessian_mpi_add_manual(hessian_solve "FILE [OPTION]..." "solve linear systems with a matrix of hessian_mpi")
hessian_mpi_add_manual(hessian_multiply "FILE [OPTION]..." "multiply vectors by a matrix of hessian_mpi")
hessian_mpi_add_manual(hessian_convert "FILE COPY [OPTION]..." "copy a file of hessian_mpi into another form")
hessian_mpi_add_manual(hessian_join "PART... [OPTION]..." "join part files of hessian_mpi")
add_custom_target(manual ALL DEPENDS ${pages})
