//! Training: optimizer, schedules, checkpoints, supervised fine-tuning, PPO and GRPO.

pub mod rl;
