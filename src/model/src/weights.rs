//! Safetensors files: read through a memory map straight into the wanted number format, written atomically.

use crate::error::{Error, Result};
use safetensors::tensor::{Dtype, TensorView, View};
use safetensors::{SafeTensors, serialize_to_file};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

struct File {
    path: PathBuf,
    map: memmap2::Mmap,
}

/// The tensors of one model directory: one file, or shards named by `model.safetensors.index.json`.
pub struct Weights {
    files: Vec<File>,
    /// Tensor name -> index into `files`.
    place: BTreeMap<String, usize>,
}

impl Weights {
    /// Opens the weights of a model directory.
    ///
    /// # Errors
    /// No weights, or malformed ones, with the path.
    pub fn open(dir: &Path) -> Result<Self> {
        let index = dir.join("model.safetensors.index.json");
        if !index.exists() {
            return Self::open_files(&[dir.join("model.safetensors")]);
        }
        let text = std::fs::read_to_string(&index).map_err(Error::io(&index))?;
        let doc: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| Error::format(&index, e.to_string()))?;
        let map =
            doc["weight_map"].as_object().ok_or_else(|| Error::format(&index, "weight_map is missing"))?;
        let mut names: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let paths: Vec<_> = names.into_iter().map(|n| dir.join(n)).collect();
        let weights = Self::open_files(&paths)?;
        if let Some(gone) = map.keys().find(|k| !weights.place.contains_key(*k)) {
            return Err(Error::format(&index, format!("tensor {gone} is in none of the shards")));
        }
        Ok(weights)
    }

    /// Opens given safetensors files.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_files(paths: &[PathBuf]) -> Result<Self> {
        let mut files = Vec::new();
        let mut place = BTreeMap::new();
        for path in paths {
            let file = std::fs::File::open(path).map_err(Error::io(path))?;
            // SAFETY: outputs of a finished task and downloaded models are not changed in place (they are replaced by
            // rename); a foreign writer could at worst make us read wrong numbers or get SIGBUS.
            let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
            let header = SafeTensors::deserialize(&map).map_err(|e| Error::format(path, e.to_string()))?;
            place.extend(header.names().into_iter().map(|n| (n.to_owned(), files.len())));
            files.push(File { path: path.clone(), map });
        }
        Ok(Self { files, place })
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.place.keys().map(String::as_str)
    }

    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.place.contains_key(name)
    }

    fn view(&self, name: &str) -> Result<(&File, TensorView<'_>, Kind)> {
        let at = *self.place.get(name).ok_or_else(|| {
            let where_ = self.files.first().map(|f| f.path.clone()).unwrap_or_default();
            Error::format(&where_, format!("there is no tensor {name}"))
        })?;
        let file = &self.files[at];
        let bad = |what: String| Error::format(&file.path, format!("tensor {name}: {what}"));
        let header = SafeTensors::deserialize(&file.map).map_err(|e| bad(e.to_string()))?;
        let view = header.tensor(name).map_err(|e| bad(e.to_string()))?;
        let kind = kind_of(view.dtype()).ok_or_else(|| bad(format!("number format {:?}", view.dtype())))?;
        Ok((file, view, kind))
    }

    /// One tensor as it is stored.
    ///
    /// # Errors
    /// No such tensor, or a number format that libtorch lacks.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let (_, view, kind) = self.view(name)?;
        Ok(Tensor::f_from_data_size(view.data(), &shape_of(&view), kind)?)
    }

    /// One tensor of a known shape, in `kind` on `device`.
    ///
    /// # Errors
    /// As [`Self::fill`].
    pub fn load(&self, name: &str, shape: &[i64], kind: Kind, device: Device) -> Result<Tensor> {
        let to = Tensor::f_empty(shape, (kind, device))?;
        self.fill(name, &to)?;
        Ok(to)
    }

    /// Writes one tensor into `to`, in the number format and on the device that `to` has: from the file's pages to its
    /// place, with no copy between. The pages are let go afterwards, so that reading a model does not hold it twice.
    ///
    /// # Errors
    /// As [`Self::get`]; another shape than that of `to`.
    pub fn fill(&self, name: &str, to: &Tensor) -> Result<()> {
        let (file, view, kind) = self.view(name)?;
        let shape = shape_of(&view);
        if shape != to.size() {
            return Err(Error::format(
                &file.path,
                format!("tensor {name} has shape {shape:?}, config.json asks for {:?}", to.size()),
            ));
        }
        let _guard = tch::no_grad_guard();
        let data = view.data();
        let mut to = to.shallow_clone();
        if (data.as_ptr() as usize).is_multiple_of(kind.elt_size_in_bytes()) {
            let strides: Vec<i64> =
                (0..shape.len()).map(|d| shape[d + 1..].iter().product::<i64>()).collect();
            // SAFETY: `data` lies in a map that outlives this block, is aligned, and has the bytes of `shape`
            // (safetensors checks it); the tensor over it is only read.
            let from = unsafe { Tensor::f_from_blob(data.as_ptr(), &shape, &strides, kind, Device::Cpu)? };
            to.f_copy_(&from)?;
        } else {
            to.f_copy_(&Tensor::f_from_data_size(data, &shape, kind)?)?;
        }
        let offset = data.as_ptr() as usize - file.map.as_ptr() as usize;
        // SAFETY: a read-only map of a file: dropped pages are read from it again. Whole pages inside the range only.
        #[cfg(unix)]
        let _ = unsafe {
            file.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, data.len())
        };
        Ok(())
    }
}

fn shape_of(view: &TensorView<'_>) -> Vec<i64> {
    view.shape().iter().map(|&n| n as i64).collect()
}

fn kind_of(d: Dtype) -> Option<Kind> {
    Some(match d {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F64 => Kind::Double,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}

/// A tensor that is made when its turn to be written comes: saving a model holds one tensor besides it, not all.
pub struct Entry<'a> {
    pub name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    make: Box<dyn Fn() -> Tensor + 'a>,
}

impl<'a> Entry<'a> {
    /// `make` must give a tensor of this shape and number format.
    ///
    /// # Errors
    /// A number format that the file format lacks.
    pub fn new(name: String, shape: &[i64], kind: Kind, make: impl Fn() -> Tensor + 'a) -> Result<Self> {
        let dtype = match kind {
            Kind::Float => Dtype::F32,
            Kind::Half => Dtype::F16,
            Kind::BFloat16 => Dtype::BF16,
            Kind::Double => Dtype::F64,
            Kind::Int64 => Dtype::I64,
            Kind::Int => Dtype::I32,
            Kind::Uint8 => Dtype::U8,
            other => return Err(Error::Invalid(format!("tensor {name}: {other:?} cannot be saved"))),
        };
        let shape = shape.iter().map(|&n| n as usize).collect();
        Ok(Self { name, shape, dtype, make: Box::new(make) })
    }

    /// A tensor that is there already.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of(name: String, t: &Tensor) -> Result<Entry<'static>> {
        let (shape, kind, t) = (t.size(), t.kind(), t.detach());
        Entry::new(name, &shape, kind, move || t.shallow_clone())
    }
}

impl View for Entry<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let t = (self.make)().detach().to_device(Device::Cpu).contiguous();
        let mut bytes = vec![0u8; self.data_len()];
        assert_eq!(
            t.numel() * t.kind().elt_size_in_bytes(),
            bytes.len(),
            "{}: not what was announced",
            self.name
        );
        t.f_copy_data_u8(&mut bytes, t.numel()).expect("a contiguous CPU tensor and as many bytes as it has");
        Cow::Owned(bytes)
    }
    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * kind_of(self.dtype).map_or(0, |k| k.elt_size_in_bytes())
    }
}

/// Writes tensors as one safetensors file: temp, fsync, rename. The metadata says `format: pt`, which transformers
/// wants to see.
///
/// # Errors
/// I/O errors; a number format that the file format lacks.
pub fn save(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    save_entries(path, tensors.iter().map(|(n, t)| Entry::of(n.clone(), t)).collect::<Result<_>>()?)
}

/// As [`save`], for tensors that are made one by one.
///
/// # Errors
/// I/O errors.
pub fn save_entries(path: &Path, entries: Vec<Entry<'_>>) -> Result<()> {
    let tmp = path.with_extension("safetensors.tmp");
    let meta = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let views = entries.into_iter().map(|e| (e.name.clone(), e));
    serialize_to_file(views, Some(meta), &tmp).map_err(|e| Error::format(&tmp, e.to_string()))?;
    let sync = || -> std::io::Result<()> {
        std::fs::File::open(&tmp)?.sync_all()?;
        std::fs::rename(&tmp, path)?;
        record::atomic::sync_dir(path)
    };
    sync().map_err(Error::io(path))
}

/// Reads every tensor of one file.
///
/// # Errors
/// I/O errors, malformed file.
pub fn read_all(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let w = Weights::open_files(&[path.to_owned()])?;
    w.names().map(|n| Ok((n.to_owned(), w.get(n)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_survive_their_file_bit_for_bit_in_every_number_format() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let t = Tensor::randn([3, 5], (Kind::Float, Device::Cpu));
        let kinds = [Kind::Float, Kind::Half, Kind::BFloat16, Kind::Int64, Kind::Uint8];
        let all: Vec<_> = kinds.iter().map(|&k| (format!("{k:?}"), t.to_kind(k))).collect();
        save(&path, &all).unwrap();
        let back = read_all(&path).unwrap();
        assert_eq!(back.len(), all.len());
        for (name, t) in &all {
            assert_eq!(back[name].kind(), t.kind());
            assert!(back[name].equal(t), "{name}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn shards_are_found_by_their_index_and_a_lost_tensor_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let one = |n: &str, v: f64| vec![(n.to_owned(), Tensor::from(v).to_kind(Kind::Float))];
        save(&dir.path().join("a.safetensors"), &one("x", 1.0)).unwrap();
        save(&dir.path().join("b.safetensors"), &one("y", 2.0)).unwrap();
        let index = dir.path().join("model.safetensors.index.json");
        std::fs::write(&index, r#"{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}"#).unwrap();
        let w = Weights::open(dir.path()).unwrap();
        assert_eq!(f64::try_from(w.get("y").unwrap()).unwrap(), 2.0);
        std::fs::write(&index, r#"{"weight_map": {"x": "a.safetensors", "z": "b.safetensors"}}"#).unwrap();
        assert!(Weights::open(dir.path()).err().unwrap().to_string().contains("tensor z"));
    }

    #[test]
    fn a_wrong_shape_names_both_shapes() {
        let dir = tempfile::tempdir().unwrap();
        save(
            &dir.path().join("model.safetensors"),
            &[("w".into(), Tensor::zeros([2, 3], (Kind::Float, Device::Cpu)))],
        )
        .unwrap();
        let w = Weights::open(dir.path()).unwrap();
        let words = w.load("w", &[3, 2], Kind::Float, Device::Cpu).unwrap_err().to_string();
        assert!(words.contains("[2, 3]") && words.contains("[3, 2]"), "{words}");
    }
}
