//! The image pair on real engines, as a person runs it: by `docker run`, by compose, and as a stack in a swarm.

mod compose;
mod pair;
mod scene;
mod stack;
