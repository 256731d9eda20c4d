# The command, the example, and the installed package.
add_executable(decode_memory ${PROJECT_SOURCE_DIR}/runtime/cpp/examples/decode_memory.c)
target_link_libraries(decode_memory PRIVATE rdeic)
target_compile_options(decode_memory PRIVATE -Wall -Wextra -pedantic)

if(TARGET rdeic_tool)
  add_test(NAME Tool.DecodesAndFailsAsItSays
    COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/tool_test.sh $<TARGET_FILE:rdeic_tool> $<TARGET_FILE:decode_memory> ${PROJECT_SOURCE_DIR})
endif()
if(TARGET rdeic_tool AND Python3_FOUND)
  add_test(NAME Tool.KeepsTheRulesForOutputs
    COMMAND "${Python3_EXECUTABLE}" ${PROJECT_SOURCE_DIR}/tests/conformance/output_rules.py $<TARGET_FILE:rdeic_tool>)
endif()
# A consumer is not built with the sanitizers that the library then needs.
if(TARGET rdeic_tool AND PROJECT_IS_TOP_LEVEL AND NOT RDEIC_SANITIZE)
  add_test(NAME Install.WorksAsThePageShows
    COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/install_test.sh ${PROJECT_BINARY_DIR} ${PROJECT_SOURCE_DIR})
  # cpack's packages of Debian are made on Debian and its relatives.
  find_program(RDEIC_SHLIBDEPS dpkg-shlibdeps)
  if(RDEIC_SHLIBDEPS AND CPACK_GENERATOR)
    add_test(NAME Packages.HoldWhatThePageSays
      COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/package_test.sh ${PROJECT_BINARY_DIR} ${PROJECT_SOURCE_DIR})
    # Both run the install rules of one build folder.
    set_tests_properties(Install.WorksAsThePageShows Packages.HoldWhatThePageSays PROPERTIES RESOURCE_LOCK install)
  endif()
endif()
