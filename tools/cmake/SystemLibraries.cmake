# apta::numa and apta::uring, which bring no CMake packages of their own: for the project and, through
# aptaConfig.cmake, for programs that link it.
foreach(part numa uring)
  if(NOT TARGET apta::${part})
    string(TOUPPER ${part} upper)
    find_library(APTA_${upper}_LIBRARY ${part} REQUIRED)
    add_library(apta::${part} INTERFACE IMPORTED)
    target_link_libraries(apta::${part} INTERFACE ${APTA_${upper}_LIBRARY})
  endif()
endforeach()
