# Makes one man page: cmake -DHELP2MAN= -DNAME= -DPROGRAM= -DPAGE= -DVERSION= -DSYNOPSIS= -DBRIEF= -P manual_page.cmake
execute_process(COMMAND ${PROGRAM} --help OUTPUT_VARIABLE help ERROR_VARIABLE error RESULT_VARIABLE failed)
if(failed)
  string(REGEX REPLACE "\n.*" "" error "${error}")
  message(NOTICE "no man page of ${NAME}: ${PROGRAM} --help failed: ${error}")
  file(REMOVE ${PAGE})
  return()
endif()

# As help2man wants it: argparse writes headings in lower case.
string(REGEX REPLACE "^${NAME}: |^usage: [^\n]*(\n +[^\n]*)*\n+" "" help "${help}")
string(SUBSTRING "${help}" 0 1 first)
string(SUBSTRING "${help}" 1 -1 rest)
string(TOUPPER "${first}" first)
set(help "${first}${rest}")
string(REGEX REPLACE "\noptions:" "\nOptions:" help "${help}")
string(REGEX REPLACE "\nexamples:" "\nExamples:" help "${help}")
if(NOT help MATCHES "\nExamples:")
  string(REGEX REPLACE "\n  (mpirun|hessian_)" "\n  $ \\1" help "${help}")  # a line of code
endif()
string(REGEX REPLACE "\n[Ee]xit codes: " "\n*Exit status*\n\n" help "${help}")
if(NOT help MATCHES "Exit status")
  string(APPEND help "\n*Exit status*\n\n0 complete; 1 failed; 2 bad usage or bad input (nothing was written).\n")
endif()

get_filename_component(folder ${PAGE} DIRECTORY)
set(texts ${folder}/${NAME}.texts)
file(WRITE ${texts}/help "${help}")
file(WRITE ${texts}/${NAME} "#!/bin/sh\ncat '${texts}/help'\n")
file(CHMOD ${texts}/${NAME} PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
set(others hessian_mpi hessian_info hessian_plot hessian_spectrum hessian_solve hessian_multiply hessian_convert hessian_join)
list(REMOVE_ITEM others ${NAME})
list(JOIN others " (1),\n.BR " others)
file(WRITE ${texts}/include "[SYNOPSIS]\n.B ${NAME}\n${SYNOPSIS}\n\n[SEE ALSO]\n.BR ${others} (1)\n")
execute_process(COMMAND ${HELP2MAN} --no-info --name=${BRIEF} --version-string=${VERSION} --source=hessian_mpi\ ${VERSION}
                        --manual=hessian_mpi --include=${texts}/include --output=${PAGE} ${texts}/${NAME}
                COMMAND_ERROR_IS_FATAL ANY)
