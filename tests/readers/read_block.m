% Reads one block of a Hessian by the names of two parameters, without the rest of the file.
%
%     block = read_block('hessian.h5', 'conv1.weight', 'fc.bias');
%
% Prints where the block lies, the sum of its numbers, and its largest entry with the elements of the two parameters
% that it belongs to, all counted from 0 as PyTorch does.
%
% MATLAB has h5read. Octave has it with the package hdf5oct; without it, this has h5dump, a program of HDF5 (Debian:
% hdf5-tools), write what is wanted into a temporary file.
%
% Both are column-major and turn the order of dimensions round: /hessian appears transposed, so its columns come first
% and .' gives the block as Python sees it.
function block = read_block(path, row_name, column_name)
  if exist(path, 'file') ~= 2
    error('%s: no such file', path);
  end
  [complete, parameters] = read_table(path);
  if ~complete
    error('%s is not complete: go on with --resume', path);
  end
  p = find_parameter(parameters, row_name);
  q = find_parameter(parameters, column_name);
  first = [parameters.offset(p), parameters.offset(q)];
  count = [parameters.size(p), parameters.size(q)];
  block = read_rectangle(path, first, count);

  [~, largest] = max(abs(block(:)));
  [i, j] = ind2sub(size(block), largest);
  fprintf('rows %d to %d, columns %d to %d\n', first(1), first(1) + count(1) - 1, first(2), first(2) + count(2) - 1);
  fprintf('sum %.17g\n', sum(block(:)));
  fprintf('largest %.17g at H[%s, %s]\n', block(i, j), element(parameters, p, i - 1), element(parameters, q, j - 1));
end

function [complete, parameters] = read_table(path)
  if exist('h5read') > 0
    complete = h5readatt(path, '/', 'complete') == 1;
    parameters.names = cellstr(h5readatt(path, '/hessian', 'parameter_names'));
    parameters.offset = double(h5readatt(path, '/hessian', 'parameter_offsets'));
    parameters.size = double(h5readatt(path, '/hessian', 'parameter_sizes'));
    parameters.ndim = double(h5read(path, '/parameters/ndim'));
    parameters.shape = double(h5read(path, '/parameters/shape'));
  else
    complete = ~isempty(regexp(h5dump('-y -a /complete', path), 'DATA \{\s*1\s*\}', 'once'));
    parameters.offset = dumped(path, '-d /parameters/offset', 'int64');
    parameters.size = dumped(path, '-d /parameters/size', 'int64');
    parameters.ndim = dumped(path, '-d /parameters/ndim', 'int64');
    count = numel(parameters.offset);
    parameters.shape = reshape(dumped(path, '-d /parameters/shape', 'int64'), [], count);
    names = char(reshape(dumped(path, '-d /parameters/name', 'uint8'), [], count).');
    parameters.names = strrep(cellstr(names), char(0), '');
  end
end

function p = find_parameter(parameters, name)
  p = find(strcmp(parameters.names, name));
  if isempty(p)
    error('no parameter ''%s''; there are %s', name, strjoin(parameters.names(:).', ', '));
  end
end

% The rectangle of /hessian as Python sees it; first: counted from 0.
function block = read_rectangle(path, first, count)
  if exist('h5read') > 0
    block = double(h5read(path, '/hessian', fliplr(first) + 1, fliplr(count))).';
  else
    precision = 'double';
    if ~isempty(strfind(h5dump('-H -A 0 -d /hessian', path), 'F32'))
      precision = 'single';
    end
    rectangle = sprintf('-d /hessian -s "%d,%d" -c "%d,%d"', first(1), first(2), count(1), count(2));
    block = reshape(dumped(path, rectangle, precision), fliplr(count)).';
  end
end

% What h5dump prints.
function text = h5dump(options, path)
  [status, text] = system(sprintf('h5dump %s "%s" 2>&1', options, path));
  if status ~= 0
    error('%s is no file of hessian_mpi, or h5dump (hdf5-tools) is missing: %s', path, text);
  end
end

% Numbers as h5dump writes them into a file.
function numbers = dumped(path, options, precision)
  file = [tempname(), '.numbers'];
  remove = onCleanup(@() delete(file));
  h5dump(sprintf('%s -b NATIVE -o "%s"', options, file), path);
  stream = fopen(file);
  numbers = fread(stream, Inf, precision);
  fclose(stream);
end

% Element k (from 0) of a parameter: row-major, so the last index is the fastest. The table of shapes is turned round.
function text = element(parameters, p, k)
  index = cell(1, 0);
  for d = parameters.ndim(p):-1:1
    extent = parameters.shape(d, p);
    index = [{sprintf('%d', mod(k, extent))}, index];
    k = floor(k / extent);
  end
  text = [parameters.names{p}, '[', strjoin(index, ', '), ']'];
end
