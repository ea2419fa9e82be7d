# Install rules and the CMake package. Component "development": library, headers, package; "tools": pkv.
include(CMakePackageConfigHelpers)
set(pkv_package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/PersistentKV)

# What the objects of a static library need is not carried by the archive: consumers link it.
if(NOT BUILD_SHARED_LIBS)
  target_link_libraries(persistentkv PRIVATE
    $<INSTALL_INTERFACE:PkgConfig::PersistentKV_HWLOC> $<INSTALL_INTERFACE:hwy::hwy> $<INSTALL_INTERFACE:fmt::fmt>)
endif()

set_target_properties(persistentkv PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
install(TARGETS persistentkv EXPORT PersistentKVTargets COMPONENT development)
install(DIRECTORY include/persistentkv DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development
        FILES_MATCHING PATTERN "*.h")
install(EXPORT PersistentKVTargets NAMESPACE PersistentKV:: DESTINATION ${pkv_package_folder} COMPONENT development)
configure_package_config_file(cmake/PersistentKVConfig.cmake.in ${PROJECT_BINARY_DIR}/PersistentKVConfig.cmake
                              INSTALL_DESTINATION ${pkv_package_folder})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/PersistentKVConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/PersistentKVConfig.cmake ${PROJECT_BINARY_DIR}/PersistentKVConfigVersion.cmake
        DESTINATION ${pkv_package_folder} COMPONENT development)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/persistentkv COMPONENT development)
install(DIRECTORY profiles/ DESTINATION ${CMAKE_INSTALL_DATADIR}/persistentkv/profiles COMPONENT development
        FILES_MATCHING PATTERN "*.json")
if(TARGET pkv)
  install(TARGETS pkv COMPONENT tools)
endif()
