# What `cmake --install` puts where: library, headers, command, find_package configuration, pkg-config file, media type,
# bundles, and ONNX Runtime where no package has it. Components: runtime, with desktop a part of it, and dev, with pkgconfig.
include(CMakePackageConfigHelpers)

install(TARGETS rdeic EXPORT rdeic
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime NAMELINK_COMPONENT dev
  PUBLIC_HEADER DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/rdeic COMPONENT dev)
if(TARGET rdeic_tool)
  # The command finds the library that it was installed with.
  file(RELATIVE_PATH RDEIC_LIB_FROM_BIN "${CMAKE_INSTALL_FULL_BINDIR}" "${CMAKE_INSTALL_FULL_LIBDIR}")
  set_target_properties(rdeic_tool PROPERTIES INSTALL_RPATH "$ORIGIN/${RDEIC_LIB_FROM_BIN}")
  install(TARGETS rdeic_tool RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT runtime)
endif()
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT runtime RENAME copyright)

# ONNX Runtime goes into a folder of librdeic's own, so that no other program is linked to it, with its licences.
if(RDEIC_INSTALL_ONNXRUNTIME)
  set_property(TARGET rdeic PROPERTY INSTALL_RPATH "$ORIGIN;$ORIGIN/rdeic")
  install(DIRECTORY "${OnnxRuntime_FOLDER}/" DESTINATION ${CMAKE_INSTALL_LIBDIR}/rdeic COMPONENT runtime
    FILES_MATCHING PATTERN "libonnxruntime*.so*" PATTERN "libonnxruntime.so" EXCLUDE)
  install(FILES "${OnnxRuntime_FOLDER}/../LICENSE" "${OnnxRuntime_FOLDER}/../ThirdPartyNotices.txt"
    DESTINATION ${CMAKE_INSTALL_DOCDIR}/onnxruntime COMPONENT runtime)
endif()

set(RDEIC_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/rdeic)
install(EXPORT rdeic NAMESPACE rdeic:: FILE rdeicTargets.cmake DESTINATION ${RDEIC_CMAKE_DIR} COMPONENT dev)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/rdeicConfig.cmake.in ${PROJECT_BINARY_DIR}/rdeicConfig.cmake
  INSTALL_DESTINATION ${RDEIC_CMAKE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/rdeicConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/rdeicConfig.cmake ${PROJECT_BINARY_DIR}/rdeicConfigVersion.cmake
  DESTINATION ${RDEIC_CMAKE_DIR} COMPONENT dev)

# A folder that is absolute, as some distributions have them, stays where it is whatever the prefix.
foreach(KIND LIBDIR INCLUDEDIR)
  if(IS_ABSOLUTE "${CMAKE_INSTALL_${KIND}}")
    set(RDEIC_PC_${KIND} "${CMAKE_INSTALL_${KIND}}")
  else()
    set(RDEIC_PC_${KIND} "\${prefix}/${CMAKE_INSTALL_${KIND}}")
  endif()
endforeach()
set(RDEIC_PC ${PROJECT_BINARY_DIR}/rdeic.pc)
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
  # The prefix is known when `cmake --install` runs, which may be given another one.
  set(RDEIC_PC_PREFIX "@CMAKE_INSTALL_PREFIX@")
  configure_file(${CMAKE_CURRENT_LIST_DIR}/rdeic.pc.in ${RDEIC_PC}.in @ONLY)
  install(CODE "configure_file(\"${RDEIC_PC}.in\" \"${RDEIC_PC}\" @ONLY)" COMPONENT pkgconfig)
else()
  # Relative, so that `cmake --install --prefix` and a package that is moved work too.
  file(RELATIVE_PATH RDEIC_PREFIX_FROM_PC "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig" "${CMAKE_INSTALL_PREFIX}")
  set(RDEIC_PC_PREFIX "\${pcfiledir}/${RDEIC_PREFIX_FROM_PC}")
  configure_file(${CMAKE_CURRENT_LIST_DIR}/rdeic.pc.in ${RDEIC_PC} @ONLY)
endif()
install(FILES ${RDEIC_PC} DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT pkgconfig)

# The media type of .rdc files, for desktops and for file(1) (docs/desktop.md).
install(FILES runtime/desktop/rdeic.xml DESTINATION ${CMAKE_INSTALL_DATADIR}/mime/packages COMPONENT desktop)
install(FILES runtime/desktop/rdeic.magic DESTINATION ${CMAKE_INSTALL_DATADIR}/rdeic COMPONENT desktop)

if(RDEIC_INSTALL_ENGINES)
  # All of them, the encoders too: a bundle is checked as a whole.
  install(DIRECTORY engines/tiny-2 engines/diffo-tiny DESTINATION ${CMAKE_INSTALL_DATADIR}/rdeic/engines
    COMPONENT runtime PATTERN plans EXCLUDE)
endif()
