//! The allocator of the binary: mimalloc, asked for an alignment only where it would not be given anyway.
//!
//! A request is freed by the journal's thread, not by the one that made it; the C library's allocator pays for that with
//! a lock. The `mimalloc` crate asks for every block's alignment, and above 1 KiB mimalloc then takes more than it needs
//! and searches for the place: 1,700 instructions per request.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_void;

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};

/// What every block is aligned to whose size is no less (`MI_MAX_ALIGN_SIZE`).
const ALIGNED_ANYWAY: usize = 16;

/// To be the global allocator of a program.
#[derive(Debug, Clone, Copy)]
pub struct Allocator;

/// Whether a block of this layout needs no asking.
const fn is_plain(size: usize, align: usize) -> bool {
    align <= ALIGNED_ANYWAY && align <= size
}

#[expect(unsafe_code, reason = "an allocator cannot be written otherwise; it only passes on")]
// SAFETY: all blocks are mimalloc's, which frees and resizes them by their address alone, and aligns them as `is_plain`
// says or as it is asked to.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: any size may be asked for, and the alignment of a layout is a power of two.
        unsafe { if is_plain(size, align) { mi_malloc(size) } else { mi_malloc_aligned(size, align) } }.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as for `alloc`.
        unsafe { if is_plain(size, align) { mi_zalloc(size) } else { mi_zalloc_aligned(size, align) } }.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller passes a block of ours.
        unsafe { mi_free(block.cast::<c_void>()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (block, align) = (block.cast::<c_void>(), layout.align());
        // SAFETY: the caller passes a block of ours; as for `alloc`.
        unsafe {
            if is_plain(size, align) {
                mi_realloc(block, size)
            } else {
                mi_realloc_aligned(block, size, align)
            }
        }
        .cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "what is tested cannot be called otherwise")]
    fn every_block_is_aligned_as_asked_and_keeps_its_bytes() {
        for align in [1, 2, 8, 16, 32, 64, 4096] {
            for size in [1, 7, 8, 9, 15, 16, 17, 24, 100, 1_024, 1_025, 3_000, 5_000, 70_000] {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: the blocks are used within their sizes and freed once.
                unsafe {
                    let block = Allocator.alloc_zeroed(layout);
                    assert!(block.addr().is_multiple_of(align) && *block == 0, "{layout:?}");
                    block.write(7);
                    let grown = Allocator.realloc(block, layout, size * 3);
                    assert!(grown.addr().is_multiple_of(align) && *grown == 7, "{layout:?}");
                    Allocator.dealloc(grown, Layout::from_size_align(size * 3, align).unwrap());
                    let plain = Allocator.alloc(layout);
                    assert!(plain.addr().is_multiple_of(align), "{layout:?}");
                    Allocator.dealloc(plain, layout);
                }
            }
        }
    }
}
