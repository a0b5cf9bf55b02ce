"""Products on one core: in a process with threads of others too, which get back what they had."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import faiss
import numpy as np
from threadpoolctl import ThreadpoolController

from warehouse.numeric import one_core


def of_products() -> dict[str, int]:
    """How many threads the products of this process may have; of a library that uses OpenMP each thread has its own."""
    assert np.ones((2, 2)).sum() == 4  # its library is there
    found = [library for library in ThreadpoolController().info() if library["user_api"] == "blas"]
    return {library["filepath"]: library["num_threads"] for library in found if library["threading_layer"] != "openmp"}


def test_blocks_of_two_threads_may_end_in_any_order() -> None:
    """Each put back what it had found, so the process stayed at one thread, and the second block lost its own."""
    before = of_products()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other, ExitStack() as first, ExitStack() as second:
        one.submit(first.enter_context, one_core()).result()
        other.submit(second.enter_context, one_core()).result()
        one.submit(first.close).result()
        assert set(of_products().values()) == {1}
        other.submit(second.close).result()
        assert of_products() == before


def test_a_block_of_another_thread_before_takes_nothing_from_this_one() -> None:
    """Since 3.8 threadpoolctl heeds, of all threads that live, only the one that set a limit first."""
    with ThreadPoolExecutor(1) as one, ExitStack() as first:
        one.submit(first.enter_context, one_core()).result()
        one.submit(first.close).result()
        with one_core():
            assert set(of_products().values()) == {1}


def test_a_block_in_a_block_leaves_the_outer_one_as_it_is() -> None:
    before = of_products()
    with one_core():
        with one_core():
            assert set(of_products().values()) == {1}
        assert set(of_products().values()) == {1}
    assert of_products() == before


def test_loops_of_this_thread_get_back_what_they_had() -> None:
    import torch  # brings OpenMP

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_core():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_loops_of_each_thread_get_back_their_own_number() -> None:
    """Its library of products has the number of its loops."""
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other, ExitStack() as first, ExitStack() as second:
        other.submit(faiss.omp_set_num_threads, 3).result()
        one.submit(first.enter_context, one_core()).result()
        other.submit(second.enter_context, one_core()).result()
        one.submit(first.close).result()
        other.submit(second.close).result()
        assert other.submit(faiss.omp_get_max_threads).result() == 3
