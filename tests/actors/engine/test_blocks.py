"""The block pool: neighbours, sharing, caching, giving back."""

import pytest

from actors.engine.blocks import BlockPool, BlockTable, NoFreeBlocksError, block_digest


def grown(pool: BlockPool, num_tokens: int, expected: int = 0) -> BlockTable:
    table = BlockTable()
    pool.grow(table, num_tokens, max(num_tokens, expected))
    return table


def test_a_table_grows_into_its_home_while_others_settle_elsewhere() -> None:
    pool = BlockPool(16, 4)
    first, second = grown(pool, 4, expected=24), grown(pool, 4, expected=16)
    for size in range(8, 28, 4):
        pool.grow(first, size, 24)
    for size in range(8, 20, 4):
        pool.grow(second, size, 16)
    assert len(first.runs) == len(second.runs) == 1
    pool.check_integrity([first, second])


def test_homes_are_taken_when_nothing_else_is_free() -> None:
    pool = BlockPool(8, 4)
    first = grown(pool, 4, expected=32)
    second = grown(pool, 12)
    assert second.ids == [4, 5, 6]
    pool.grow(first, 20, 32)
    assert pool.num_free == 0
    pool.check_integrity([first, second])
    with pytest.raises(NoFreeBlocksError, match="0 blocks"):
        pool.grow(first, 21, 21)
    assert len(first.ids) == 5


def test_known_blocks_are_shared_and_outlive_their_holder() -> None:
    pool = BlockPool(8, 4)
    digests = [block_digest(b"", [1, 2, 3, 4])]
    digests.append(block_digest(digests[0], [5, 6, 7, 8]))
    first = grown(pool, 8)
    for index, digest in enumerate(digests):
        pool.publish(first, index, digest)
    second = BlockTable()
    assert pool.adopt(second, digests) == 2
    assert second.ids == first.ids
    pool.release(first)
    pool.release(second)
    assert pool.num_free == 8
    third = BlockTable()
    assert pool.adopt(third, [digests[0], b"unknown", digests[1]]) == 1
    pool.check_integrity([third])


def test_cached_blocks_give_way_when_space_is_needed() -> None:
    pool = BlockPool(4, 4)
    digest = block_digest(b"", [1, 2, 3, 4])
    first = grown(pool, 4)
    pool.publish(first, 0, digest)
    pool.release(first)
    table = grown(pool, 12)
    assert 0 not in table.ids, "an unknown block is taken before a known one"
    pool.grow(table, 16, 16)
    assert pool.adopt(BlockTable(), [digest]) == 0
    pool.check_integrity([table])


def test_truncation_never_leaves_a_known_block_to_be_written_again() -> None:
    pool = BlockPool(8, 4)
    table = grown(pool, 12)
    pool.publish(table, 1, block_digest(b"", [1, 2, 3, 4]))
    assert pool.truncate(table, 9) == 9
    assert pool.truncate(table, 8) == 8
    assert len(table.ids) == 2
    assert pool.truncate(table, 7) == 4
    assert len(table.ids) == 1
    pool.check_integrity([table])


def test_a_shared_block_is_owned_before_it_is_written() -> None:
    pool = BlockPool(6, 4)
    first, second, third = grown(pool, 6), BlockTable(), BlockTable()
    for table in (second, third):
        pool.share(first, table, 2)
    assert pool.num_free == 4
    assert pool.must_own(second, 6)
    assert not pool.must_own(second, 8)
    source, copy = pool.own(second)
    assert (source, second.ids) == (first.ids[1], [first.ids[0], copy])
    assert pool.must_own(third, 6)
    pool.release(first)
    assert not pool.must_own(third, 6), "the last holder writes in place"
    pool.check_integrity([first, second, third])


def test_without_a_free_block_nothing_is_owned() -> None:
    pool = BlockPool(2, 4)
    first, second = grown(pool, 6), BlockTable()
    pool.share(first, second, 2)
    assert pool.can_grow(second, 8)
    assert not pool.can_grow(second, 8, num_more=1)
    with pytest.raises(NoFreeBlocksError, match="copy"):
        pool.own(second)
    assert second.ids == first.ids
    pool.check_integrity([first, second])


def test_digests_depend_on_all_that_came_before() -> None:
    assert block_digest(b"", [1, 2]) != block_digest(b"", [2, 1])
    assert block_digest(block_digest(b"", [1]), [2]) != block_digest(block_digest(b"", [3]), [2])
