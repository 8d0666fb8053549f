# Fails when an object defines weak or unique symbols: see csrc/levels.hpp.
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} -C --defined-only ${object}
    OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^\n]* [WwVvu] [^\n]*" shared "${symbols}")
  if(shared)
    list(JOIN shared "\n  " listed)
    message(SEND_ERROR "${object} shares symbols with other levels:\n  ${listed}")
  endif()
endforeach()
