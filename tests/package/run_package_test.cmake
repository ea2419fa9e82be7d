# The steps of the package test: install, configure a consumer, build it, run it.
# Not here: the consumer (consumer/).
function(step name)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "${name} failed (${code}):\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE ${WORK_DIR})
step(build ${CMAKE_COMMAND} --build ${PKV_BUILD_DIR} --target persistentkv)
step(install ${CMAKE_COMMAND} --install ${PKV_BUILD_DIR} --prefix ${WORK_DIR}/prefix --component development)
step(configure ${CMAKE_COMMAND} -S ${CONSUMER_DIR} -B ${WORK_DIR}/build -G ${GENERATOR}
     -DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix -DCMAKE_CXX_COMPILER=${CXX_COMPILER} -DCMAKE_CXX_FLAGS=${CXX_FLAGS}
     -DEXAMPLE_DIR=${EXAMPLE_DIR})
step(compile ${CMAKE_COMMAND} --build ${WORK_DIR}/build)
step(run ${WORK_DIR}/build/consumer)
if(NOT output STREQUAL "workqueue: 24 tasks, 1 merge launch\n")
  message(FATAL_ERROR "unexpected output: ${output}")
endif()
# All keys are equal: the output is V itself, and LSE is 64 * 0.5 / 8 + log(tokens).
step(example ${WORK_DIR}/build/decode_step)
if(NOT output MATCHES "out\\[0\\]\\[0\\] = 2.000, lse = 7.689 and 5.946")
  message(FATAL_ERROR "unexpected output of the example: ${output}")
endif()
