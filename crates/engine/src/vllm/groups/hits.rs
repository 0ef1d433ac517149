//! What a prompt finds in the cache: as much in every group.

use std::ops::Range;

use servecast_types::HashRuns;

use super::pool::NULL;
use super::{GroupedKv, Kind};
use crate::kv_groups::GroupKind;
use crate::vllm::Request;
use crate::vllm::contents::Prefix;

impl GroupedKv {
    /// The longest prefix within the first `most` tokens of a request that each group has what it needs of.
    ///
    /// Full attention says how long it can be, then each other kind of group may shorten it, until all agree.
    #[inline(never)]
    pub(in crate::vllm) fn find(&mut self, request: &mut Request, most: u32) -> u32 {
        self.hits.iter_mut().for_each(Vec::clear);
        let mut tables = self.tables(request);
        tables.junction = 0;
        let mut found = 0;
        if self.caching {
            // What is dropped of a hit may lie behind what can be hit.
            let known = if self.groups.drops_last_hit { request.known() } else { most };
            let hashes = request.hashes(known / self.groups.hash_unit);
            let known = known / self.groups.hash_unit * self.groups.hash_unit;
            let (tokens, longest) = self.agree(hashes, most, known);
            if longest > tokens && self.groups.specs.len() > 1 {
                tables.junction = longest;
            }
            found = tokens;
        }
        request.tables = Some(tables);
        found
    }

    /// The length on which all kinds of groups agree, at most `most` tokens, and the longest that one of them had; `hashed`
    /// tokens have identities.
    ///
    /// Where the last block of a hit is not used, each kind drops one, unless what it found was shortened since.
    fn agree(&mut self, hashes: &HashRuns, most: u32, hashed: u32) -> (u32, u32) {
        let kinds = std::mem::take(&mut self.kinds);
        let one_pass = kinds.len() == 2 && kinds[0].spec.kind == GroupKind::Full;
        let (mut agreed, mut longest) = (most, 0);
        let mut of_full = vec![None; kinds.len()];
        let mut has_dropped = vec![!self.groups.drops_last_hit; kinds.len()];
        loop {
            let mut current = agreed;
            for (number, (kind, of_full)) in kinds.iter().zip(&mut of_full).enumerate() {
                if let Some(full) = *of_full {
                    // A shorter prefix of what full attention has, it has as well.
                    current = current.min(full);
                    continue;
                }
                let drops = !has_dropped[number];
                let is_state = matches!(kind.spec.kind, GroupKind::Mamba { .. });
                let within =
                    if drops && !is_state { (current + kind.spec.block_size).min(hashed) } else { current };
                let found = self.find_in(kind, hashes, within, drops);
                if drops {
                    has_dropped[number] = true;
                } else if found < current && self.groups.drops_last_hit {
                    has_dropped.fill(false);
                }
                current = found;
                if kind.spec.kind == GroupKind::Full {
                    *of_full = of_full.or(Some(current));
                }
                longest = longest.max(current);
            }
            let is_stable = current >= agreed;
            agreed = current.min(agreed);
            if is_stable || one_pass || kinds.len() == 1 {
                break;
            }
        }
        for kind in kinds.iter().filter(|kind| kind.spec.kind == GroupKind::Full) {
            let blocks = agreed.div_ceil(kind.spec.block_size) as usize;
            kind.groups.iter().for_each(|&group| self.hits[group].truncate(blocks));
        }
        self.kinds = kinds;
        (agreed, longest)
    }

    /// The longest prefix within `most` tokens that groups of one kind can go on from, without its last block if that
    /// `drops`; what they have of it is in `hits`.
    fn find_in(&mut self, kind: &Kind, hashes: &HashRuns, most: u32, drops: bool) -> u32 {
        let (size, unit) = (kind.spec.block_size, self.groups.hit_unit);
        let blocks = most / size;
        kind.groups.iter().for_each(|&group| self.hits[group].clear());
        let found = match kind.spec.kind {
            GroupKind::Full => {
                let found = self.find_from(kind, hashes, 0..blocks).saturating_sub(drops.into());
                found * size / unit * unit / size
            }
            GroupKind::ChunkedLocal(chunk) => {
                let before = most / chunk * chunk / size;
                self.fill(kind, before);
                self.find_from(kind, hashes, before..blocks)
            }
            GroupKind::SlidingWindow(window) => {
                let needed = kind.spec.blocks_of_window(window);
                self.find_window(kind, hashes, blocks, (needed, drops))
            }
            GroupKind::Mamba { align: true, .. } => self.find_state(kind, hashes, blocks),
            GroupKind::Mamba { align: false, .. } => 0,
        };
        kind.groups.iter().for_each(|&group| self.hits[group].truncate(found as usize));
        found * size
    }

    /// The first of some places that has no block, or where they end.
    fn find_from(&mut self, kind: &Kind, hashes: &HashRuns, places: Range<u32>) -> u32 {
        let mut near = None;
        for place in places.clone() {
            let Some(prefix) = self.find_place(kind, hashes, place, near) else { return place };
            self.note(kind, prefix, place);
            near = Some(prefix);
        }
        places.end.max(places.start)
    }

    /// The last place up to which there are as many blocks in a row as a window needs, or all from the first on; one more if
    /// the last of them is dropped.
    fn find_window(
        &mut self,
        kind: &Kind,
        hashes: &HashRuns,
        blocks: u32,
        (needed, drops): (u32, bool),
    ) -> u32 {
        let (size, unit) = (kind.spec.block_size, self.groups.hit_unit);
        let dropped = u32::from(drops);
        let align = |end: u32| end * size / unit * unit / size;
        self.fill(kind, blocks);
        let (mut run, mut near) = (0, None);
        for place in (0..blocks).rev() {
            let Some(prefix) = self.find_place(kind, hashes, place, near) else {
                run = 0;
                continue;
            };
            near = Some(prefix);
            if run == 0 && size != unit && !((place + 1 - dropped) * size).is_multiple_of(unit) {
                continue;
            }
            self.note(kind, prefix, place);
            run += 1;
            if run >= needed + dropped {
                return if drops { align(place + run - 1) } else { place + run };
            }
        }
        // Fewer are enough where the sequence begins.
        align(align(run).saturating_sub(dropped))
    }

    /// The last place that has a state.
    fn find_state(&mut self, kind: &Kind, hashes: &HashRuns, blocks: u32) -> u32 {
        let (size, unit) = (kind.spec.block_size, self.groups.hit_unit);
        let is_end = |place: &u32| ((place + 1) * size).is_multiple_of(unit);
        let find = |place| Some((place, self.find_place(kind, hashes, place, None)?));
        let Some((place, prefix)) = (0..blocks).rev().filter(is_end).find_map(find) else { return 0 };
        self.fill(kind, place);
        self.note(kind, prefix, place);
        place + 1
    }

    /// Places without a block.
    fn fill(&mut self, kind: &Kind, places: u32) {
        kind.groups.iter().for_each(|&group| self.hits[group].resize(places as usize, NULL));
    }

    /// Where the identity at a place is, if all groups of a kind have a block with their content; `near` is where another one of
    /// the sequence is.
    fn find_place(&self, kind: &Kind, hashes: &HashRuns, place: u32, near: Option<Prefix>) -> Option<Prefix> {
        let units = kind.spec.block_size / self.groups.hash_unit;
        let prefix = self.pool.find(hashes.get((place + 1) * units - 1)?, near)?;
        let has = |&group: &usize| self.pool.first(prefix, group as u32).is_some();
        kind.groups.iter().all(has).then_some(prefix)
    }

    /// Notes the blocks that the groups of a kind have at a place.
    fn note(&mut self, kind: &Kind, prefix: Prefix, place: u32) {
        for &group in &kind.groups {
            let block = self.pool.first(prefix, group as u32).unwrap_or(NULL);
            let hits = &mut self.hits[group];
            match hits.get_mut(place as usize) {
                Some(place) => *place = block,
                None => hits.push(block),
            }
        }
    }
}
