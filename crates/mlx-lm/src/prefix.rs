//! Caches of prompts seen before, found by their beginning.

use std::collections::BTreeMap;

use crate::Result;
use crate::cache::{self, Cache};

/// Keeps caches by the tokens that they hold, up to a limit of bytes, and finds
/// the one that knows most of a new prompt.
///
/// A cache that can be trimmed serves any prompt that shares a beginning with
/// it; one that cannot (recurrent states, a window that has moved on) serves
/// prompts that begin with all of it, which is why snapshots are taken at
/// places where prompts part: after the system prompt, after each turn.
#[derive(Debug)]
pub struct PrefixStore {
    nodes: Vec<Node>,
    free: Vec<usize>,
    limit: usize,
    bytes: usize,
    clock: u64,
    hits: u64,
    misses: u64,
}

/// A place in the trie of tokens.
#[derive(Debug, Default)]
struct Node {
    parent: usize,
    token: u32,
    children: BTreeMap<u32, usize>,
    entry: Option<Entry>,
}

#[derive(Debug)]
struct Entry {
    cache: Cache,
    bytes: usize,
    used: u64,
}

/// What each place in the trie costs besides its cache, at the most: three times its own size,
/// because the list of places doubles when it grows and a quarter of it may be free, and its entry
/// among the children of the place before it, for which an only child has a whole block of a map,
/// with room for eleven.
const NODE_BYTES: usize = 3 * size_of::<Node>() + 11 * (size_of::<u32>() + size_of::<usize>()) + 32;

impl PrefixStore {
    /// An empty store that never holds more than `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            nodes: vec![Node::default()],
            free: Vec::new(),
            limit,
            bytes: 0,
            clock: 0,
            hits: 0,
            misses: 0,
        }
    }

    /// Bytes held: caches, their slack, and the trie.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        self.bytes
    }

    /// Caches held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes
            .iter()
            .filter(|node| node.entry.is_some())
            .count()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often a prompt's beginning was found, and how often not.
    #[must_use]
    pub fn statistics(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self {
            hits: self.hits,
            misses: self.misses,
            ..Self::new(self.limit)
        };
    }

    /// Keeps a cache that holds exactly `tokens`. The caches that have not been
    /// asked for the longest go until all fit; one that is larger than the
    /// limit is not kept.
    ///
    /// A shorter one that this one can stand for goes too.
    ///
    /// # Errors
    /// Fails if the cache cannot be copied.
    pub fn insert(&mut self, tokens: &[u32], cache: Cache) -> Result<()> {
        let bytes = cache::nbytes(&cache);
        let needed = bytes.saturating_add(tokens.len().saturating_mul(NODE_BYTES));
        if tokens.is_empty() || needed > self.limit {
            return Ok(());
        }
        // What is lazy would keep its whole graph alive.
        let state: Vec<_> = cache.iter().flat_map(|layer| layer.state()).collect();
        mlx_core::eval(&state)?;
        let length = i32::try_from(tokens.len()).unwrap_or(i32::MAX);
        let stands_for_shorter = cache::can_trim(&cache, length);
        let mut at = 0;
        let mut replaced = Vec::new();
        for &token in tokens {
            if stands_for_shorter && self.entry(at).is_some() {
                replaced.push(at);
            }
            at = self.child_or_new(at, token);
        }
        self.clock += 1;
        let entry = Entry {
            cache,
            bytes,
            used: self.clock,
        };
        self.bytes += bytes;
        let old = match self.nodes.get_mut(at) {
            Some(node) => node.entry.replace(entry),
            None => None,
        };
        self.bytes -= old.map_or(0, |old| old.bytes);
        for node in replaced {
            self.remove(node);
        }
        self.shrink();
        if self.free.len() * 4 > self.nodes.len() {
            self.compact();
        }
        Ok(())
    }

    /// The cache that knows most of `prompt`, with the number of tokens that it
    /// holds: at least one fewer than the prompt has, because the last one's
    /// logits are wanted. The cache is a copy.
    pub fn fetch(&mut self, prompt: &[u32]) -> Option<(usize, Cache)> {
        let (known, rest) = prompt
            .split_last()
            .map_or((prompt, None), |(last, known)| (known, Some(*last)));
        self.clock += 1;
        // All along the prompt: whole entries, and how far the trie agrees.
        let (mut at, mut depth) = (0, 0);
        let mut whole = None;
        for &token in known {
            match self
                .nodes
                .get(at)
                .and_then(|node| node.children.get(&token))
            {
                Some(&child) => at = child,
                None => break,
            }
            depth += 1;
            if self.entry(at).is_some() {
                whole = Some((depth, at));
            }
        }
        // Something longer that shares this much, and can be cut back to it.
        let preferred = if depth == known.len() { rest } else { None };
        let longer = self.longer(at, depth, preferred);
        let found = match (whole, longer) {
            (Some((length, node)), Some((_, shared, _))) if length >= shared => {
                Some((length, node, 0))
            }
            (_, Some((node, shared, surplus))) => Some((shared, node, surplus)),
            (Some((length, node)), None) => Some((length, node, 0)),
            (None, None) => None,
        };
        let fetched = found.and_then(|(length, node, surplus)| {
            let now = self.clock;
            let entry = self.nodes.get_mut(node)?.entry.as_mut()?;
            entry.used = now;
            let mut cache = entry.cache.clone();
            (surplus == 0 || cache::trim(&mut cache, surplus)).then_some((length, cache))
        });
        match fetched {
            Some(_) => self.hits += 1,
            None => self.misses += 1,
        }
        fetched
    }

    /// An entry below `at` that can be trimmed to its depth: its node, the
    /// depth, and how much is to be trimmed.
    fn longer(
        &self,
        at: usize,
        depth: usize,
        preferred: Option<u32>,
    ) -> Option<(usize, usize, i32)> {
        if depth == 0 {
            return None;
        }
        let start = self.nodes.get(at)?;
        let mut stack: Vec<(usize, i32)> = Vec::new();
        let first = preferred.and_then(|token| start.children.get(&token));
        stack.extend(start.children.values().map(|&child| (child, 1)));
        stack.extend(first.map(|&child| (child, 1)));
        while let Some((node, surplus)) = stack.pop() {
            let node_ref = self.nodes.get(node)?;
            if let Some(entry) = &node_ref.entry
                && cache::can_trim(&entry.cache, surplus)
            {
                return Some((node, depth, surplus));
            }
            stack.extend(
                node_ref
                    .children
                    .values()
                    .map(|&child| (child, surplus + 1)),
            );
        }
        None
    }

    fn entry(&self, node: usize) -> Option<&Entry> {
        self.nodes.get(node)?.entry.as_ref()
    }

    fn child_or_new(&mut self, parent: usize, token: u32) -> usize {
        if let Some(&child) = self
            .nodes
            .get(parent)
            .and_then(|node| node.children.get(&token))
        {
            return child;
        }
        let node = Node {
            parent,
            token,
            ..Node::default()
        };
        self.bytes += NODE_BYTES;
        let child = match self.free.pop() {
            Some(place) => {
                if let Some(slot) = self.nodes.get_mut(place) {
                    *slot = node;
                }
                place
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        if let Some(node) = self.nodes.get_mut(parent) {
            node.children.insert(token, child);
        }
        child
    }

    /// Takes an entry out, and the places that led to nothing else.
    fn remove(&mut self, mut at: usize) {
        let entry = self.nodes.get_mut(at).and_then(|node| node.entry.take());
        self.bytes -= entry.map_or(0, |entry| entry.bytes);
        while at != 0 {
            let Some(node) = self.nodes.get(at) else {
                return;
            };
            if node.entry.is_some() || !node.children.is_empty() {
                return;
            }
            let (parent, token) = (node.parent, node.token);
            if let Some(parent) = self.nodes.get_mut(parent) {
                parent.children.remove(&token);
            }
            self.free.push(at);
            self.bytes -= NODE_BYTES;
            at = parent;
        }
    }

    fn shrink(&mut self) {
        while self.bytes > self.limit {
            let entries = self.nodes.iter().enumerate();
            let oldest = entries
                .filter_map(|(at, node)| Some((node.entry.as_ref()?.used, at)))
                .min();
            match oldest {
                Some((_, at)) => self.remove(at),
                None => return,
            }
        }
    }

    /// Gives back the room of places that are gone.
    fn compact(&mut self) {
        let mut is_live = vec![true; self.nodes.len()];
        for &place in &self.free {
            if let Some(live) = is_live.get_mut(place) {
                *live = false;
            }
        }
        // Where each place moves: as many down as are gone before it.
        let mut next = 0;
        let places: Vec<usize> = is_live
            .iter()
            .map(|&live| {
                let place = next;
                next += usize::from(live);
                place
            })
            .collect();
        let moved = |place: usize| places.get(place).copied().unwrap_or(0);
        let nodes = std::mem::take(&mut self.nodes);
        let mut kept = Vec::with_capacity(next);
        for (mut node, _) in nodes.into_iter().zip(is_live).filter(|(_, live)| *live) {
            node.parent = moved(node.parent);
            node.children
                .values_mut()
                .for_each(|child| *child = moved(*child));
            kept.push(node);
        }
        self.nodes = kept;
        self.free = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_covers_what_is_held() -> Result<()> {
        // A block of a map of children, as the allocator gives it.
        let block = 11 * (4 + 8) + 16;
        let mut store = PrefixStore::new(50_000);
        for seed in 0..200_u32 {
            let tokens: Vec<u32> = (0..seed % 60 + 1).map(|at| at * 7 + seed % 5).collect();
            store.insert(&tokens, Cache::new())?;
            let places = store.nodes.capacity() * size_of::<Node>();
            let blocks = store.nodes.iter().filter(|node| !node.children.is_empty());
            let held = places + blocks.count() * block;
            // The root, and what the shortest list has room for, come on top.
            assert!(held <= store.nbytes() + 4 * size_of::<Node>() + block);
            assert!(store.nbytes() <= 50_000);
            assert!(store.fetch(&[&tokens[..], &[1]].concat()).is_some());
        }
        assert!(!store.is_empty());
        store.clear();
        assert_eq!(store.nbytes(), 0);
        Ok(())
    }
}
