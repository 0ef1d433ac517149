//! What has to hold of a pool.

use servecast_types::{BlockId, HashRun, SequenceHash, ensure};

use super::BlockPool;
use crate::vllm::segment::{FRESH, NONE};

impl BlockPool {
    /// Unless the list, the counts and the index of contents agree and `references` are all that there are: says what does
    /// not. Otherwise how many blocks and references it looked at.
    pub(crate) fn check(&self, references: impl Iterator<Item = BlockId>) -> Result<u64, String> {
        let mut expected = vec![0_u32; self.segment_of.len()];
        let mut looked_at = self.segment_of.len() as u64;
        for block in references {
            expected[block.index()] += 1;
            looked_at += 1;
        }
        let mut known = vec![false; self.segments.len()];
        let mut in_segments = 0;
        for (block, (&segment, &expected)) in self.segment_of.iter().zip(&expected).enumerate() {
            if segment == NONE {
                ensure!(expected <= 1, "block {block} has no content, but {expected} references");
                continue;
            }
            known[segment as usize] = true;
            in_segments += 1;
            let references = self.segments[segment].references;
            ensure!(
                references == expected,
                "block {block} counts {references} references, but has {expected}"
            );
        }
        let ids: Vec<u32> = (0..).zip(known).filter(|(_, known)| *known).map(|(id, _)| id).collect();
        self.check_members(&ids, in_segments)?;
        self.check_contents(&ids)?;
        let linked = || self.segments.linked().map(|id| (id, &self.segments[id]));
        let on_list: u32 = linked().map(|(_, segment)| segment.references).sum();
        ensure!(on_list == 0, "free blocks have {on_list} references");
        let fresh = |id| if id == FRESH { self.num_blocks - self.segment_of.len() as u32 } else { 0 };
        let listed: u32 = linked().map(|(id, segment)| segment.len() + fresh(id)).sum();
        ensure!(listed == self.num_free, "{listed} blocks are on the free list of {}", self.num_free);
        Ok(looked_at)
    }

    /// Each of the `count` blocks of some segments is in its segment.
    fn check_members(&self, ids: &[u32], count: usize) -> Result<(), String> {
        let mut seen = vec![false; self.segment_of.len()];
        let members =
            ids.iter().flat_map(|&id| self.segments[id].blocks.iter().map(move |&block| (id, block)));
        let mut listed = 0;
        for (id, block) in members {
            let is_new = !std::mem::replace(&mut seen[block.index()], true);
            let is_its_own = self.segment_of[block.index()] == id;
            ensure!(
                is_new && is_its_own,
                "block {block} is in a segment that is not its own, or twice in it"
            );
            listed += 1;
        }
        ensure!(listed == count, "{listed} blocks are in segments, of {count}");
        Ok(())
    }

    /// The contents of some segments are found, each by the segment that has it first, with those behind it that have it
    /// too.
    fn check_contents(&self, ids: &[u32]) -> Result<(), String> {
        let mut found = vec![false; self.segments.len()];
        let mut num_cached = 0;
        for &id in ids.iter().filter(|&&id| self.segments[id].is_first) {
            let (first, len) = self.extent(id);
            for (at, hash) in (0..).zip(HashRun::up(SequenceHash(first), len).iter()) {
                ensure!(self.find(hash) == Some((id, at)), "content {hash:?} of a block is not in the index");
            }
            for other in self.segments.duplicates(id) {
                let is_equal = self.segments[other].content.is_some() && self.extent(other) == (first, len);
                let is_new = !std::mem::replace(&mut found[other as usize], true);
                ensure!(is_equal && is_new, "segments that are listed as equal to that of {first:x} are not");
            }
            num_cached += len;
        }
        for &id in ids {
            let content = self.segments[id].content;
            let is_found = content.is_none() || found[id as usize];
            ensure!(is_found, "content {content:?} of a block is not in the index");
        }
        ensure!(num_cached == self.num_cached, "{num_cached} distinct contents, {} counted", self.num_cached);
        Ok(())
    }
}
