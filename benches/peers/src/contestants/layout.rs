//! Arrays in the order that another library wants.

/// The axes of images (image, row, column, channel) for libraries that have channels first.
pub const TO_CHANNELS_FIRST: [usize; 4] = [0, 3, 1, 2];
/// And back.
pub const TO_CHANNELS_LAST: [usize; 4] = [0, 2, 3, 1];
/// The axes of a convolution's weights (row, column, input, output) for libraries that have output
/// and input first.
pub const TO_FILTERS_FIRST: [usize; 4] = [3, 2, 0, 1];
/// And back.
pub const TO_FILTERS_LAST: [usize; 4] = [2, 3, 1, 0];

/// An array whose axis number `i` is number `axes[i]` of `data`.
pub fn permute<const D: usize>(data: &[f32], shape: [usize; D], axes: [usize; D]) -> Vec<f32> {
    let mut strides = [1; D];
    for axis in (1..D).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    let mut permuted = Vec::with_capacity(data.len());
    let mut index = [0; D];
    for _ in 0..data.len() {
        permuted.push(data[(0..D).map(|i| index[i] * strides[axes[i]]).sum::<usize>()]);
        for i in (0..D).rev() {
            index[i] += 1;
            if index[i] < shape[axes[i]] {
                break;
            }
            index[i] = 0;
        }
    }
    permuted
}

#[cfg(test)]
mod tests {
    use super::{TO_CHANNELS_FIRST, TO_CHANNELS_LAST, permute};

    #[test]
    fn axes_change_places_and_back() {
        let turned = permute(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [2, 3], [1, 0]);
        assert_eq!(turned, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0], "a matrix");
        let images: Vec<f32> = (0..48).map(|i| i as f32).collect();
        let turned = permute(&images, [2, 2, 3, 4], TO_CHANNELS_FIRST);
        assert_eq!(turned[..3], [0.0, 4.0, 8.0], "the first channel's first row");
        assert_eq!(permute(&turned, [2, 4, 2, 3], TO_CHANNELS_LAST), images, "and back");
    }
}
