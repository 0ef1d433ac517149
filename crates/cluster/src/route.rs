//! The way of a request through a deployment.

use servecast_types::PoolId;
use smallvec::SmallVec;

/// The pool of each stage of a request, in order; there is one stage at least, and no pool comes twice.
///
/// What a stage does follows from its place. One that is not the last computes a prompt and holds its KV until the next
/// one has it; the tokens of the last one reach users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    stages: SmallVec<[PoolId; 2]>,
}

impl Route {
    /// Through so many pools, in order of their numbers.
    pub(crate) fn through(pools: usize) -> Self {
        assert!(pools > 0, "a request has one stage at least");
        Self { stages: (0..pools as u16).map(PoolId).collect() }
    }

    /// Where requests come to.
    pub(crate) fn first(&self) -> PoolId {
        self.stages[0]
    }

    /// Whose tokens reach users.
    pub(crate) fn last(&self) -> PoolId {
        self.stages[self.stages.len() - 1]
    }

    /// Where requests go from a pool, unless that is the last.
    pub(crate) fn after(&self, pool: PoolId) -> Option<PoolId> {
        self.stages.get(self.stage(pool) + 1).copied()
    }

    /// Which stage of a request a pool is, from 0 on.
    pub(crate) fn stage(&self, pool: PoolId) -> usize {
        let stage = self.stages.iter().position(|&of| of == pool);
        stage.expect("every pool of a deployment is a stage")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_meets_one_pool_after_the_other() {
        let route = Route::through(2);
        assert_eq!((route.first(), route.last()), (PoolId(0), PoolId(1)));
        assert_eq!(route.after(PoolId(0)), Some(PoolId(1)));
        assert_eq!((route.after(PoolId(1)), route.stage(PoolId(1))), (None, 1));
    }

    #[test]
    fn the_only_pool_is_the_first_and_the_last() {
        let route = Route::through(1);
        assert_eq!((route.first(), route.last(), route.after(PoolId(0))), (PoolId(0), PoolId(0), None));
    }
}
