//! Vectors of embeddings.

/// Of length 1, unless it has none.
pub(crate) fn scaled(parts: &[f32]) -> Vec<f32> {
    let len = parts.iter().map(|part| f64::from(*part).powi(2)).sum::<f64>().sqrt();
    if len == 0.0 {
        return parts.to_vec();
    }
    parts.iter().map(|part| (f64::from(*part) / len) as f32).collect()
}
