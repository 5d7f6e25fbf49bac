#pragma once
/// Where the problems of a test are derived: on the CPU, or for a test that is built for it on a simulated GPU.

#ifndef HESSIAN_MPI_TEST_DEVICE
#define HESSIAN_MPI_TEST_DEVICE "cpu"
#endif
